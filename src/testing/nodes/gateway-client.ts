// An initiator of a cluster's targets, as a host's own behaves: it follows redirections, comes
// again where nobody serves the target yet, and keeps its name and ISID, so that it is the same I_T
// nexus whichever portal it has come to.

import { setTimeout as sleep } from "node:timers/promises";
import type { CommandOptions, InitiatorCommand, IscsiInitiator } from "../../load/index.ts";
import { ClassicClient, INITIATOR, portGroups, read10, TEST_UNIT_READY } from "./classic-client.ts";

const MOVED = 0x0101;
const PATIENCE_MS = 60_000;
const LOGIN_MS = 1000;
const PAUSE_MS = 50;
const SECTOR_BYTES = 512;
const UNIT_ATTENTION = 0x06;

export interface GatewayLogin {
  readonly initiator: IscsiInitiator;
  /** The portals that it came to, in order; the last one serves the target. */
  readonly path: readonly string[];
}

export class GatewayClient {
  readonly client: ClassicClient = new ClassicClient();
  private readonly targetName: string;

  constructor(targetName: string) {
    this.targetName = targetName;
  }

  /** One attempt, at that portal alone; a portal that sleeps is hung up on. */
  private async tryLogin(portal: string, isid: string): Promise<IscsiInitiator> {
    const { client, targetName } = this;
    const initiator = client.dial(portal, { targetName, isid, initiatorName: INITIATOR });
    const endMs = performance.now() + LOGIN_MS;
    const isOver = (): boolean =>
      initiator.login.isDone || initiator.isEnded || performance.now() > endMs;
    await client.until(isOver, "a login");
    return initiator;
  }

  /** Logs in through the portal, wherever it leads, as soon as somebody serves the target. */
  async login(portal: string, isid = "000000000001"): Promise<GatewayLogin> {
    const deadlineMs = performance.now() + PATIENCE_MS;
    let path = [portal];
    for (;;) {
      const initiator = await this.tryLogin(path.at(-1) as string, isid);
      const { status, keys } = initiator.login;
      if (status === MOVED && path.length < 8) {
        path.push((keys.get("TargetAddress") ?? "").split(",")[0] as string);
        continue;
      }
      if (initiator.isLoggedIn && (await this.isReady(initiator))) return { initiator, path };
      initiator.close();
      if (performance.now() > deadlineMs) {
        throw new Error(`no login at ${path.join(", ")}: status ${status.toString(16)}`);
      }
      path = [portal];
      await sleep(PAUSE_MS);
    }
  }

  /**
   * A session at that portal itself, wherever the target is served: the node has it, or has it in
   * standby, or will in a moment. The initiator has asked for the ports, as one with several paths.
   */
  async session(portal: string, isid: string): Promise<IscsiInitiator> {
    const deadlineMs = performance.now() + PATIENCE_MS;
    for (;;) {
      const initiator = await this.tryLogin(portal, isid);
      if (initiator.isLoggedIn && !initiator.isEnded) {
        await this.run(initiator, { cdb: TEST_UNIT_READY });
        await portGroups(this, initiator);
        return initiator;
      }
      initiator.close();
      if (performance.now() > deadlineMs) throw new Error(`no session at ${portal} itself`);
      await sleep(PAUSE_MS);
    }
  }

  /** What the unit says to TEST UNIT READY until it says no unit attention; 0 = ready. */
  async attentions(initiator: IscsiInitiator): Promise<number[]> {
    const told: number[] = [];
    do {
      const { isDone, senseTriple } = await this.client.run(initiator, { cdb: TEST_UNIT_READY });
      told.push(isDone ? senseTriple : -1);
    } while ((told.at(-1) as number) >>> 16 === UNIT_ATTENTION);
    return told;
  }

  /** Takes the unit attentions of a session that begins; false: it has ended. */
  private async isReady(initiator: IscsiInitiator): Promise<boolean> {
    const { isDone, status } = await this.run(initiator, { cdb: TEST_UNIT_READY });
    return isDone && status === 0;
  }

  /** A command that met a unit attention is given again, as every driver does. */
  async run(initiator: IscsiInitiator, options: CommandOptions): Promise<InitiatorCommand> {
    for (;;) {
      const command = await this.client.run(initiator, options);
      const isTold = command.isDone && command.senseTriple >>> 16 === UNIT_ATTENTION;
      if (!isTold) return command;
    }
  }

  async read(initiator: IscsiInitiator, lba: number, blocks: number): Promise<Buffer> {
    const options = { cdb: read10(lba, blocks), readBytes: blocks * SECTOR_BYTES };
    const { status, data, senseTriple } = await this.run(initiator, options);
    if (status === 0) return Buffer.from(data);
    throw new Error(`a read of block ${lba}: status ${status}, sense ${senseTriple.toString(16)}`);
  }
}
