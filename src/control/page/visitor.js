// Asks the server that served this page for a way into a channel, and for the visitors' names,
// which the voice protocol does not carry. Only a development server answers.

const TIMEOUT_MS = 8000;

/** The server said no, in its own words. Trying again changes nothing. */
export class Refused extends Error {}

/** The server said nothing. Trying again may help. */
export class Unreachable extends Error {}

/**
 * A grant: `{url, server_id, channel_id, user_id, session_id, token}`. Who shows its last grant
 * stays the same user.
 */
export function requestGrant({ name, server, channel, previous }) {
  const body = { name, channel_id: channel };
  if (server) body.server_id = server;
  if (previous) body.previous = { user_id: previous.user_id, token: previous.token };
  return ask("/dev/grants", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
}

/** The names of a channel's visitors, by user id. */
export async function fetchNames(channel) {
  const answer = await ask(`/dev/names?channel_id=${encodeURIComponent(channel)}`, {});
  return new Map(Object.entries(answer.names));
}

async function ask(path, options) {
  let response;
  let answer;
  try {
    response = await fetch(path, { ...options, signal: AbortSignal.timeout(TIMEOUT_MS) });
    answer = await response.json();
  } catch (error) {
    throw new Unreachable("The server does not answer.", { cause: error });
  }
  if (response.ok) return answer;
  const words = answer?.error?.message ?? `status ${response.status}`;
  if (response.status >= 500 || response.status === 429) throw new Unreachable(words);
  throw new Refused(`The server refuses: ${words}.`);
}
