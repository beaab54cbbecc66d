// When members that are out are tried again, and how often it is said why they cannot be.

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { Member } from "./member.ts";
import { OWNER_TIMINGS } from "./owner-settings.ts";
import { Returns } from "./returns.ts";

const { retryMs, returnMs, lagPenaltyMs } = OWNER_TIMINGS;
let nowMs = 0;
let member: Member;
let returns: Returns;
beforeEach(() => {
  nowMs = 1_000_000;
  member = new Member(0, "d1");
  returns = new Returns(OWNER_TIMINGS, () => nowMs * 1000);
});

const waitMs = (): number => returns.dueUs(member) / 1000 - nowMs;

test("whoever was put out is left alone for the longest pause; then pauses stay as long", () => {
  returns.isOut(member);
  for (let attempt = 0; attempt < 3; attempt++) {
    assert.equal(waitMs(), returnMs);
    nowMs += waitMs();
    returns.tried(member);
  }
});

test("when its node is back it is tried soon, and then with pauses that double", () => {
  returns.isOut(member);
  nowMs += 500;
  returns.isBack(member);
  const waits: number[] = [];
  for (let attempt = 0; attempt < 7; attempt++) {
    waits.push(waitMs());
    nowMs += waitMs();
    returns.tried(member);
  }
  assert.deepEqual(waits, [100, 100, 200, 400, 800, 1600, 2000]);
  returns.isBack(member);
  assert.equal(waitMs(), retryMs);
});

test("a resync that began is not begun again before its time, however often the node is back", () => {
  returns.isBack(member);
  nowMs += retryMs;
  returns.tried(member);
  returns.begun(member);
  const dueMs = nowMs + returnMs;
  for (let times = 0; times < 10; times++) {
    nowMs += 50;
    returns.isBack(member);
    assert.equal(nowMs + waitMs(), dueMs);
  }
});

test("a penalty stays, and doubles, whoever says that the node is back", () => {
  returns.punish(member);
  returns.isOut(member);
  returns.isBack(member);
  assert.equal(waitMs(), lagPenaltyMs);
  nowMs += lagPenaltyMs;
  returns.punish(member);
  returns.isBack(member);
  assert.equal(waitMs(), 2 * lagPenaltyMs);
});

test("why it cannot be brought back is news once, and again after a resync has begun", () => {
  const told = ["lost", "lost", "unknown-volume", "unknown-volume", "lost"];
  const news = told.map((reason) => returns.isNews(member, reason));
  assert.deepEqual(news, [true, false, true, false, true]);
  returns.begun(member);
  assert.ok(returns.isNews(member, "lost"));
});
