-- Spacebar's tables as far as a voice server sees them: names, types and keys as its migrations
-- leave them. Columns that no voice server looks at are left out.
CREATE TABLE users (id bigint PRIMARY KEY);
CREATE TABLE guilds (id bigint PRIMARY KEY, region character varying);
CREATE TABLE channels (
    id bigint PRIMARY KEY,
    type integer NOT NULL DEFAULT 2,
    guild_id bigint REFERENCES guilds(id) ON DELETE CASCADE
);
CREATE TABLE voice_states (
    id bigint PRIMARY KEY,
    guild_id bigint REFERENCES guilds(id) ON DELETE CASCADE,
    channel_id bigint REFERENCES channels(id) ON DELETE CASCADE,
    user_id bigint REFERENCES users(id) ON DELETE CASCADE,
    session_id character varying NOT NULL,
    token character varying,
    deaf boolean NOT NULL,
    mute boolean NOT NULL,
    self_deaf boolean NOT NULL,
    self_mute boolean NOT NULL,
    self_stream boolean,
    self_video boolean NOT NULL,
    suppress boolean NOT NULL,
    request_to_speak_timestamp timestamp without time zone
);
CREATE TABLE streams (
    id bigint PRIMARY KEY,
    owner_id bigint NOT NULL REFERENCES users(id) ON DELETE CASCADE,
    channel_id bigint NOT NULL REFERENCES channels(id) ON DELETE CASCADE,
    endpoint character varying NOT NULL
);
CREATE TABLE stream_sessions (
    id bigint PRIMARY KEY,
    stream_id bigint NOT NULL REFERENCES streams(id) ON DELETE CASCADE,
    user_id bigint NOT NULL REFERENCES users(id) ON DELETE CASCADE,
    token character varying,
    session_id character varying NOT NULL,
    used boolean NOT NULL DEFAULT false
);
CREATE TABLE config (key character varying PRIMARY KEY, value text);
