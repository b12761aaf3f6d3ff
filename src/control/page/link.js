// A link that lets somebody in: what `stentor grant --link` puts behind the #, which browsers send
// to nobody. Pure.

/** The version of the gateway's protocol that this page speaks. */
const VERSION = 9;

const ID = /^[0-9]{1,20}$/;

/**
 * The grant in a link's fragment: `{url, server_id, channel_id, user_id, session_id, token}`; null
 * if there is none. `origin` is where the page came from, and where its gateway is.
 */
export function readLink(fragment, origin) {
  const parts = new URLSearchParams(fragment.replace(/^#/, ""));
  const [server_id, channel_id, user_id, session_id, token] = [
    "server",
    "channel",
    "user",
    "session",
    "token",
  ].map((name) => parts.get(name) ?? "");
  if (![server_id, channel_id, user_id].every((id) => ID.test(id))) return null;
  if (!session_id || !token) return null;
  const url = `${origin.replace(/^http/, "ws")}/?v=${VERSION}`;
  return { url, server_id, channel_id, user_id, session_id, token };
}
