// Bugs on demand: each flag puts a known hole back, so that the tests can prove that they would
// find it. Nothing but a test ever sets one.

export interface PeerPlantedBugs {
  /** A resume is answered while writes of the old connection are still on their way. */
  readonly resumeWithoutDrain: boolean;
  /** A newer connection does not end the older one, nor its sessions. */
  readonly oldConnectionLives: boolean;
  /** What is sent again is written again. */
  readonly forgetDone: boolean;
  /** A fence does not tell the owner before. */
  readonly silentFence: boolean;
}

export const NO_PEER_BUGS: PeerPlantedBugs = {
  resumeWithoutDrain: false,
  oldConnectionLives: false,
  forgetDone: false,
  silentFence: false,
};
