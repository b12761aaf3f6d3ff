// The tiles: one for each member, oneself first, with name, camera, and a ring around who speaks.

/** Hues of the faces, degrees: as far apart from each other as from the ring's green. */
const HUES = [210, 265, 310, 350, 20, 45, 190, 235];

export class Tiles {
  #list = document.getElementById("tiles");
  #template = document.getElementById("tile");
  #tiles = new Map();

  /** Shows a member, or what has changed: `{user, name, speaking, self, mark}`. */
  show({ user, name, speaking, self, mark }) {
    const tile = this.#tiles.get(user) ?? this.#add(user, self);
    tile.dataset.speaking = speaking;
    tile.querySelector(".name").textContent = self ? `${name} (you)` : name;
    tile.querySelector(".face").textContent = initials(name);
    const words = [name, self && "you", speaking ? "speaks" : mark];
    tile.setAttribute("aria-label", words.filter(Boolean).join(", "));
    const badge = tile.querySelector(".mark");
    badge.textContent = mark ?? "";
    badge.hidden = !mark;
  }

  remove(user) {
    this.#tiles.get(user)?.remove();
    this.#tiles.delete(user);
    this.#arrange();
  }

  clear() {
    for (const user of [...this.#tiles.keys()]) this.remove(user);
  }

  get count() {
    return this.#tiles.size;
  }

  /** Shows a camera's track on the tile; null: none. */
  picture(user, track) {
    const tile = this.#tiles.get(user);
    if (!tile) return;
    const video = tile.querySelector("video");
    if ((video.srcObject?.getVideoTracks()[0] ?? null) === track) return;
    video.srcObject = track ? new MediaStream([track]) : null;
    tile.dataset.picture = track !== null;
    video.hidden = track === null;
    // Muted pictures may play without being asked for.
    if (track) video.play().catch(() => {});
  }

  #add(user, self) {
    const tile = this.#template.content.firstElementChild.cloneNode(true);
    tile.dataset.user = user;
    tile.dataset.self = self;
    tile.dataset.picture = false;
    tile.style.setProperty("--hue", HUES[Number(BigInt(user) % BigInt(HUES.length))]);
    this.#tiles.set(user, tile);
    if (self) this.#list.prepend(tile);
    else this.#list.append(tile);
    this.#arrange();
    return tile;
  }

  /** As many columns as make the tiles largest. */
  #arrange() {
    this.#list.dataset.count = Math.min(this.#tiles.size, 10);
  }
}

function initials(name) {
  const words = name.split(/\s+/).filter(Boolean);
  const ends = words.length > 1 ? [words[0], words[words.length - 1]] : words;
  return ends.map((word) => [...word][0].toUpperCase()).join("");
}
