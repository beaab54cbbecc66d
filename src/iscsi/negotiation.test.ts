// Text keys and what is agreed on: encodings, every operational key with its limits, CHAP's parts.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { ChapExchange, chapResponse, judgeCredentials, OutstandingChallenges } from "./chap.ts";
import { answerInFullFeature, defaultParameters, Negotiation } from "./negotiation.ts";
import { TARGET_WISHES } from "./portal.ts";
import { encodeText, parseBinary, parseNumber, parseText, TextGatherer } from "./text.ts";

const bytes = (text: string): Uint8Array => Buffer.from(text, "utf8");

test("text: pairs come back as they were sent, and what is no text says why", () => {
  const pairs: [string, string][] = [
    ["InitiatorName", "iqn.1"],
    ["X-com.example.key", "a=b,c"],
    ["Empty", ""],
  ];
  assert.deepEqual(parseText(encodeText(pairs)), pairs);
  assert.deepEqual(parseText(bytes("A=1\0\0\0B=2\0\0")), [
    ["A", "1"],
    ["B", "2"],
  ]);
  assert.deepEqual(parseText(new Uint8Array(0)), []);
  for (const wrong of [
    "A=1",
    "A\0",
    "=1\0",
    "1A=1\0",
    `${"K".repeat(64)}=1\0`,
    "A B=1\0",
    `A=${"v".repeat(4097)}\0`,
    Array.from({ length: 65 }, (_, index) => `K${index}=1\0`).join(""),
  ]) {
    assert.equal(typeof parseText(bytes(wrong)), "string", wrong.slice(0, 20));
  }
});

test("text: numbers in both bases, binary values in hex and base64, nothing else", () => {
  const numbers: [string, number][] = [
    ["0", 0],
    ["512", 512],
    ["0x1000", 4096],
    ["0XfF", 255],
    ["", -1],
    ["-1", -1],
    ["1e3", -1],
    [" 1", -1],
    ["0x", -1],
    ["12345678901", -1],
  ];
  for (const [text, value] of numbers) assert.equal(parseNumber(text), value, text);
  assert.deepEqual(parseBinary("0x0aFF", 4), Buffer.from([10, 255]));
  assert.deepEqual(parseBinary("0bCv8=", 4), Buffer.from([10, 255]));
  assert.deepEqual(parseBinary("0BCv8=", 4), Buffer.from([10, 255]));
  for (const wrong of ["0aff", "0x0", "0xzz", "0b", "0x", "0bC", "0b====", "0x0102030405", "q"]) {
    assert.equal(parseBinary(wrong, 4), null, wrong);
  }
});

test("text over many PDUs is held up to a limit", () => {
  const gatherer = new TextGatherer();
  for (let index = 0; index < 4; index++) assert.ok(gatherer.add(new Uint8Array(4096).fill(65)));
  assert.equal(gatherer.add(new Uint8Array(1)), false);
  assert.equal(gatherer.take().length, 16384);
  assert.equal(gatherer.take().length, 0);
});

test("every operational key is answered as section 13 says", () => {
  const cases: [string, string, string | null | undefined][] = [
    ["HeaderDigest", "CRC32C,None", "CRC32C"],
    ["HeaderDigest", "None,CRC32C", "None"],
    ["HeaderDigest", "SHA1", "Reject"],
    ["DataDigest", "X,CRC32C", "CRC32C"],
    ["MaxConnections", "8", "1"],
    ["MaxConnections", "0", "Reject"],
    ["MaxConnections", "65536", "Reject"],
    ["InitialR2T", "No", "No"],
    ["InitialR2T", "Yes", "Yes"],
    ["InitialR2T", "yes", "Reject"],
    ["ImmediateData", "Yes", "Yes"],
    ["ImmediateData", "No", "No"],
    ["MaxRecvDataSegmentLength", "512", null],
    ["MaxRecvDataSegmentLength", "511", undefined],
    ["MaxRecvDataSegmentLength", "16777216", undefined],
    ["MaxBurstLength", "16777215", "1048576"],
    ["MaxBurstLength", "0x200", "512"],
    ["MaxBurstLength", "511", "Reject"],
    ["FirstBurstLength", "131072", "65536"],
    ["FirstBurstLength", "4096", "4096"],
    ["DefaultTime2Wait", "0", "2"],
    ["DefaultTime2Wait", "3600", "3600"],
    ["DefaultTime2Wait", "3601", "Reject"],
    ["DefaultTime2Retain", "20", "0"],
    ["MaxOutstandingR2T", "16", "8"],
    ["MaxOutstandingR2T", "1", "1"],
    ["DataPDUInOrder", "No", "Yes"],
    ["DataSequenceInOrder", "No", "Yes"],
    ["ErrorRecoveryLevel", "2", "0"],
    ["ErrorRecoveryLevel", "3", "Reject"],
    ["TaskReporting", "FastAbort,RFC3373", "RFC3373"],
    ["TaskReporting", "FastAbort", "Reject"],
    ["iSCSIProtocolLevel", "2", "1"],
    ["IFMarker", "Yes", "No"],
    ["OFMarker", "No", "No"],
    ["IFMarkInt", "1~2", "Reject"],
    ["OFMarkInt", "1~2", "Reject"],
    ["InitiatorAlias", "me", null],
    ["X-com.example", "1", "NotUnderstood"],
    ["Unheard", "1", "NotUnderstood"],
    ["RDMAExtensions", "Yes", "NotUnderstood"],
  ];
  for (const [key, value, expected] of cases) {
    const answer = new Negotiation(TARGET_WISHES).answer(key, value, false);
    assert.equal(answer, expected, `${key}=${value}`);
  }
  for (const key of ["MaxConnections", "InitialR2T", "ImmediateData", "MaxBurstLength"]) {
    assert.equal(new Negotiation(TARGET_WISHES).answer(key, "1", true), "Irrelevant", key);
  }
});

test("what is agreed on holds, and the first burst is never longer than the longest", () => {
  const negotiation = new Negotiation(TARGET_WISHES);
  assert.ok(negotiation.noteKey("A"));
  assert.equal(negotiation.noteKey("A"), false, "a key is negotiated once");
  negotiation.answer("MaxBurstLength", "1024", false);
  negotiation.answer("FirstBurstLength", "4096", false);
  negotiation.answer("InitialR2T", "No", false);
  negotiation.answer("DataDigest", "CRC32C", false);
  negotiation.answer("MaxRecvDataSegmentLength", "1000", false);
  assert.equal(negotiation.declareOwn(), "262144");
  assert.deepEqual(negotiation.finish(), {
    ...defaultParameters(),
    maxBurstLength: 1024,
    firstBurstLength: 1024,
    initialR2T: false,
    dataDigest: true,
    peerSegmentBytes: 1000,
    ownSegmentBytes: 262144,
  });
});

test("in full feature only the segment may still change", () => {
  const parameters = defaultParameters();
  const key = "MaxRecvDataSegmentLength";
  assert.equal(answerInFullFeature(key, "4096", parameters), null);
  assert.equal(parameters.peerSegmentBytes, 4096);
  assert.equal(answerInFullFeature(key, "1", parameters), "Reject");
  assert.equal(answerInFullFeature("InitialR2T", "No", parameters), "Reject");
  assert.equal(answerInFullFeature("Nonsense", "No", parameters), "NotUnderstood");
});

test("CHAP: the digest of RFC 1994, a reflected challenge, equal and short secrets", () => {
  const challenge = Buffer.from("0102030405060708", "hex");
  const expected = createHash("md5").update(Buffer.from("07")).digest();
  assert.notDeepEqual(chapResponse(5, 7, "secret", challenge), expected);
  const parts = Buffer.concat([Buffer.from([7]), Buffer.from("secret"), challenge]);
  assert.deepEqual(
    chapResponse(5, 7, "secret", challenge),
    createHash("md5").update(parts).digest(),
  );
  assert.equal(chapResponse(99, 7, "secret", challenge), null);

  const credentials = {
    users: [{ name: "0x61", secret: "initiator-secret" }],
    target: { name: "target", secret: "the-targets-secret" },
  };
  assert.equal(judgeCredentials(credentials), null);
  const short = { users: [{ name: "a", secret: "short" }], target: null };
  const equal = { ...credentials, target: { name: "t", secret: "initiator-secret" } };
  assert.match(judgeCredentials(short) ?? "", /12/);
  assert.doesNotMatch(judgeCredentials(short) ?? "", /short"/);
  assert.match(judgeCredentials(equal) ?? "", /same/);

  // A second connection's challenge is as good as our own.
  const outstanding = new OutstandingChallenges();
  const run = (name: string, foreign: Uint8Array | null): string => {
    const exchange = new ChapExchange(credentials, outstanding);
    const begun = exchange.step(new Map([["CHAP_A", "9,7,5"]]));
    assert.equal(begun.kind, "go-on");
    const keys = new Map(begun.kind === "go-on" ? begun.pairs : []);
    assert.equal(keys.get("CHAP_A"), "7", "the first that both know");
    const own = Buffer.from((keys.get("CHAP_C") ?? "").slice(2), "hex");
    const response = chapResponse(7, Number(keys.get("CHAP_I")), "initiator-secret", own);
    const answer = new Map([
      ["CHAP_N", name],
      ["CHAP_R", `0x${Buffer.from(response ?? []).toString("hex")}`],
    ]);
    if (foreign !== null) {
      answer.set("CHAP_I", "1");
      answer.set("CHAP_C", `0x${Buffer.from(foreign).toString("hex")}`);
    }
    const outcome = exchange.step(answer);
    exchange.end();
    return outcome.kind;
  };
  assert.equal(run("0x61", null), "done", "a name is text, not a number");
  assert.equal(run("a", null), "failed");
  assert.equal(run("0x61", Buffer.from("foreign challenge")), "done");
  const stolen = Buffer.from("somebody else's challenge");
  outstanding.add(stolen);
  assert.equal(run("0x61", stolen), "failed");
  outstanding.remove(stolen);
  assert.equal(run("0x61", stolen), "done");
});
