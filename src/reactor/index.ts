// reactor/: one worker thread's loop.

export { Mailbox } from "./mailbox.ts";
export {
  Reactor,
  type ReactorCounters,
  type ReactorModules,
  type ReactorObserver,
  type ReactorOptions,
} from "./reactor.ts";
export { TimerWheel } from "./timer-wheel.ts";
