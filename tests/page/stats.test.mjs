import assert from "node:assert/strict";
import { test } from "node:test";

import { quality } from "./stats.js";

const report = (seconds, { received, lost, jitter = 0.004, roundTrip = 0.012, out = 0 }) =>
  new Map(
    [
      {
        id: "T",
        type: "transport",
        timestamp: seconds * 1000,
        selectedCandidatePairId: "P",
        bytesSent: seconds * 4000,
        bytesReceived: seconds * 8000,
      },
      { id: "P", type: "candidate-pair", currentRoundTripTime: roundTrip },
      {
        id: "I",
        type: "inbound-rtp",
        kind: "audio",
        packetsReceived: received,
        packetsLost: lost,
        jitter,
      },
      { id: "R", type: "remote-inbound-rtp", kind: "audio", fractionLost: out },
    ].map((it) => [it.id, it]),
  );

test("rates and losses are those since the report before", () => {
  const before = report(10, { received: 500, lost: 100 });
  const after = report(12, { received: 599, lost: 101 });
  const { roundTrip, lossIn, lossOut, jitter, up, down, grade } = quality(before, after);
  assert.deepEqual([roundTrip, jitter, lossIn, lossOut], [12, 4, 1, 0]);
  assert.deepEqual([up, down], [32, 64]);
  assert.equal(grade, "good");
});

test("where the transport counts no bytes its pair does", () => {
  const firefox = (seconds) => {
    const all = report(seconds, { received: 0, lost: 0 });
    const { bytesSent, bytesReceived, ...transport } = all.get("T");
    const timestamp = transport.timestamp;
    all.set("T", transport);
    return all.set("P", { ...all.get("P"), timestamp, bytesSent, bytesReceived });
  };
  const { up, down } = quality(firefox(10), firefox(12));
  assert.deepEqual([up, down], [32, 64]);
  // Another pair than before: nothing to compare with.
  const moved = firefox(12);
  moved.set("Q", { ...moved.get("P"), id: "Q" });
  moved.get("T").selectedCandidatePairId = "Q";
  assert.equal(quality(firefox(10), moved).up, null);
});

test("the first report knows no rates", () => {
  const { up, down, lossIn } = quality(null, report(10, { received: 0, lost: 0 }));
  assert.deepEqual([up, down, lossIn], [null, null, null]);
});

test("the worst of the figures decides the grade", () => {
  const before = report(10, { received: 500, lost: 0 });
  const figures = { received: 550, lost: 0 };
  const graded = (change) => quality(before, report(11, { ...figures, ...change })).grade;
  assert.equal(graded({}), "good");
  assert.equal(graded({ roundTrip: 0.2 }), "fair");
  assert.equal(graded({ lost: 1 }), "fair");
  assert.equal(graded({ jitter: 0.1 }), "poor");
  assert.equal(graded({ out: 0.1 }), "poor");
});

test("a report before media flows has nothing to say", () => {
  const { roundTrip, jitter, grade } = quality(null, new Map());
  assert.deepEqual([roundTrip, jitter, grade], [null, null, "good"]);
});
