// What runs inside the guest: /init (process 1) and the agent that executes the host's commands.
// Both are shell scripts for busybox, so that a guest needs no program of ours.
//
// The agent speaks lines over a serial port that carries nothing else:
//
//   host -> guest   RUN <id> <length of payload> <command, base64>
//                   KILL <id>
//   guest -> host   READY <protocol version> <kernel release>      once per boot, after a line feed
//                   ACK <id>                                       RUN was read whole
//                   OUT <id> <stdout, base64>                      these three together, when the
//                   ERR <id> <stderr, base64>                      command has ended
//                   END <id> <exit status> <stdout bytes> <stderr bytes>
//
// Invariants: an id is used once, and a RUN with an id already seen is acknowledged and not run
// again (the host repeats what was not acknowledged); a damaged RUN (its length is wrong) is
// ignored; READY begins a line, whatever the guest was about to say when it was reset; lines are
// never interleaved (every writer takes the lock); commands run side by side, each in its own
// session, so that KILL ends all its children, also before it has begun.

/** Kernel parameters that /init understands. */
export const PARAMETER_AGENT = "ringstore.agent";
export const PARAMETER_SCRIPT = "ringstore.script";
export const PARAMETER_MODULES = "ringstore.modules";
/** Printed on the console, with the exit status, when a script from the kernel line ends. */
export const SCRIPT_EXIT_MARK = "RINGSTORE-SCRIPT-EXIT";
/**
 * Debian's busybox runs its own applets in preference to programs of the same name on the PATH.
 * This file, read before each command, has a shell function for each program that must win.
 */
export const PROGRAMS_FILE = "/etc/programs";
export const AGENT_VERSION = 1;
/** Of each of stdout and stderr; the rest is dropped and END tells how much there was. */
export const OUTPUT_BYTES_MAX: number = 4 * 1024 * 1024;

export const INIT_SCRIPT: string = `#!/bin/sh
export PATH=/sbin:/bin HOME=/root
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mkdir -p /dev/shm
mount -t tmpfs tmpfs /dev/shm
script= agent= modules=
for word in $(cat /proc/cmdline); do
  case $word in
    ${PARAMETER_SCRIPT}=*) script=\${word#*=} ;;
    ${PARAMETER_AGENT}=*) agent=\${word#*=} ;;
    ${PARAMETER_MODULES}=*) modules=$(echo "\${word#*=}" | tr , ' ') ;;
  esac
done
modprobe -a $(cat /etc/boot-modules) $modules
if [ -n "$script" ]; then
  echo "$script" | base64 -d >/run/script
  sh -c '. ${PROGRAMS_FILE}; . /run/script' </dev/null
  echo "${SCRIPT_EXIT_MARK} $?"
fi
if [ -n "$agent" ]; then
  # Process 1 must not end, and an agent that was killed by a command comes back.
  while :; do
    sh /sbin/agent "$agent"
    sleep 1
  done
fi
poweroff -f
sleep 60
`;

export const AGENT_SCRIPT: string = `#!/bin/sh
port=/dev/$1
jobs=/run/agent
mkdir -p $jobs
rm -f $jobs/lock
stty -F $port raw -echo
exec 3<>$port

# To start a program is what costs an emulated CPU most: the shell does what it can by itself.
set -C
lock() { until true 2>/dev/null >$jobs/lock; do usleep 2000; done; }
unlock() { rm $jobs/lock; }
say() { lock; echo "$*" >&3; unlock; }

encoded() { [ ! -s $1 ] || head -c ${OUTPUT_BYTES_MAX} $1 | base64 -w 0; }

run() {
  job=$jobs/$1
  setsid sh -c 'echo $$ >"$0.pid"; [ ! -e "$0.killed" ] || exit 137
    . ${PROGRAMS_FILE}; . "$0.sh"' $job \\
    >$job.out 2>$job.err </dev/null 3>&-
  status=$?
  sizes=$(stat -c %s $job.out $job.err)
  {
    printf 'OUT %s ' $1
    encoded $job.out
    printf '\\nERR %s ' $1
    encoded $job.err
    printf '\\nEND %s %s %s %s\\n' $1 $status $sizes
  } >$job.frame
  lock
  cat $job.frame >&3
  unlock
  rm -f $job.sh $job.pid $job.killed $job.out $job.err $job.frame
}

# Whoever was reset in the middle of a line has not ended it.
lock
printf '\\nREADY %s %s\\n' ${AGENT_VERSION} "$(uname -r)" >&3
unlock
while read -r verb id length payload <&3; do
  case $verb in
    RUN)
      [ "\${#payload}" = "$length" ] || continue
      if [ ! -e $jobs/$id.seen ]; then
        : >$jobs/$id.seen
        echo "$payload" | base64 -d >$jobs/$id.sh
        # Not our own child: its end would interrupt \`read\`, which then forgets half a line.
        (run $id &)
      fi
      say ACK $id
      ;;
    KILL)
      # It may not have begun: then it finds this when it does.
      : >|$jobs/$id.killed
      [ -f $jobs/$id.pid ] && kill -9 -"$(cat $jobs/$id.pid)"
      ;;
  esac
done
`;
