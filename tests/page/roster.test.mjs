import assert from "node:assert/strict";
import { test } from "node:test";

import { Roster } from "./roster.js";

/** A roster and everything it has said. */
const observed = () => {
  const roster = new Roster();
  const said = [];
  for (const type of ["joined", "left", "changed"]) {
    roster.addEventListener(type, ({ detail }) => said.push([type, detail.member.user]));
  }
  return { roster, said };
};

test("news of somebody unknown brings them in", () => {
  const { roster, said } = observed();
  roster.setSpeaking("7", 1, 4242);
  roster.setVideo("8", 4343, 5000);
  const joined = said.filter(([type]) => type === "joined").map(([, user]) => user);
  assert.deepEqual(joined, ["7", "8"]);
  assert.equal(roster.get("7").audio, 4242);
  assert.equal(roster.get("8").video, 5000);
});

test("what says nothing new changes nothing", () => {
  const { roster, said } = observed();
  roster.setVideo("7", 4242, 0);
  said.length = 0;
  roster.setVideo("7", 4242, 0);
  roster.setVideo("7", 0, 0);
  assert.deepEqual(said, []);
  assert.equal(roster.get("7").audio, 4242, "audio does not end by being left out");
});

test("the gateway says who speaks until sound does", () => {
  const { roster } = observed();
  roster.setSpeaking("7", 1, 4242);
  assert.ok(roster.get("7").speaking);
  roster.setLevels(new Map([["7", 0]]));
  assert.ok(!roster.get("7").speaking, "nothing is heard, whatever the flags say");
  roster.setLevels(new Map([["7", 0.4]]));
  assert.ok(roster.get("7").speaking);
  roster.setLevels(new Map([["7", 0]]));
  assert.ok(roster.get("7").speaking, "a pause within a sentence");
});

test("sound that is no voice is no speech before it is heard", () => {
  const { roster } = observed();
  roster.setSpeaking("7", 2, 4242);
  assert.ok(!roster.get("7").speaking);
});

test("names come before or after their owners", () => {
  const { roster } = observed();
  roster.admit("7");
  assert.equal(roster.get("7").name, "user 7");
  assert.ok(roster.lacksNames());
  roster.setNames(new Map([["7", "Ann"], ["8", "Bob"]]));
  assert.equal(roster.get("7").name, "Ann");
  assert.equal(roster.admit("8").name, "Bob");
  assert.ok(!roster.lacksNames());
});

test("who has left is gone, once", () => {
  const { roster, said } = observed();
  roster.admit("7");
  roster.dismiss("7");
  roster.dismiss("7");
  assert.deepEqual(said, [["joined", "7"], ["left", "7"]]);
  assert.deepEqual([...roster], []);
});
