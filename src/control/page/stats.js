// Connection quality from the browser's own counters: what two reports, some time apart, say.

/** Above the first, quality is fair; above the second, poor. */
const ROUND_TRIP_MS = [150, 400];
const LOSS_PERCENT = [1, 5];
const JITTER_MS = [30, 80];

/**
 * `{roundTrip, lossIn, lossOut, jitter, up, down, grade}`: ms, percent, kbit/s; null where nothing
 * is known yet. `before` and `after` are `RTCStatsReport`s, `before` may be null.
 */
export function quality(before, after) {
  const list = [...after.values()];
  const of = (type, kind) => list.filter((it) => it.type === type && (!kind || it.kind === kind));
  const transport = of("transport")[0];
  const pair = transport && after.get(transport.selectedCandidatePairId);
  // Firefox counts the pair's bytes alone.
  const counted = [transport, pair].find((it) => Number.isFinite(it?.bytesSent));
  const earlier = counted && before?.get(counted.id);
  const seconds = earlier ? (counted.timestamp - earlier.timestamp) / 1000 : 0;
  const rate = (key) => (seconds ? ((counted[key] - earlier[key]) * 8) / 1000 / seconds : null);

  const received = growth(before, of("inbound-rtp"), "packetsReceived");
  const lost = Math.max(0, growth(before, of("inbound-rtp"), "packetsLost"));
  const jitters = of("inbound-rtp", "audio").map((it) => it.jitter * 1000);
  const reports = of("remote-inbound-rtp").filter((it) => Number.isFinite(it.fractionLost));
  const result = {
    roundTrip: pair?.currentRoundTripTime === undefined ? null : pair.currentRoundTripTime * 1000,
    lossIn: received + lost > 0 ? (100 * lost) / (received + lost) : null,
    lossOut: reports.length ? 100 * Math.max(...reports.map((it) => it.fractionLost)) : null,
    jitter: jitters.length ? Math.max(...jitters) : null,
    up: rate("bytesSent"),
    down: rate("bytesReceived"),
  };
  return { ...result, grade: grade(result) };
}

function growth(before, entries, key) {
  return entries.reduce((sum, it) => sum + (it[key] ?? 0) - (before?.get(it.id)?.[key] ?? 0), 0);
}

function grade({ roundTrip, lossIn, lossOut, jitter }) {
  const steps = [
    [roundTrip, ROUND_TRIP_MS],
    [lossIn, LOSS_PERCENT],
    [lossOut, LOSS_PERCENT],
    [jitter, JITTER_MS],
  ];
  const passed = ([value, bounds]) => bounds.filter((bound) => value > bound).length;
  const worst = Math.max(...steps.map(passed));
  return ["good", "fair", "poor"][worst];
}
