//! Spacebar's tables: the few statements a voice server needs, each one round trip, over a pool
//! that is small on purpose: it is what keeps a join storm from the database. A query that takes
//! too long costs its connection, so that nobody waits behind it.

use std::{path::Path, str::FromStr, sync::Arc, time::Duration};

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use tokio_postgres::{
    Client, Config, Connection, NoTls, Row, Socket,
    config::{Host, SslMode},
    tls::{MakeTlsConnect, NoTlsStream},
    types::{ToSql, Type},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    adapter::{Departure, Stay},
    row::{StreamRow, VoiceRow},
};
use crate::{
    config::SpacebarDatabase,
    control::{ledger::Holder, tls_stream},
    id::{ChannelId, ServerId, SessionId, Token, UserId},
    sfu::VoiceState,
};

/// Connections, hence queries at once. A lookup takes well under a millisecond of the database;
/// more would only make its other users wait.
pub(super) const CONNECTIONS_MAX: usize = 8;

/// Time to connect, TLS and password included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Time for one statement. One that is not done by then is waiting for something that is not here.
const QUERY_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Silence on a connection after which the kernel asks whether anybody is there.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Rows read at start at most: as many as may be remembered.
const EXPECTED_MAX: i64 = 65_536;

/// Why a statement brought nothing. Never has a password in it.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The address is none, or a file it needs is not there.
    #[error("{0}")]
    Setup(String),
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The database refused.
    #[error("{0}")]
    Query(String),
    /// Nothing came in time.
    #[error("no answer in time")]
    Timeout,
}

/// One row that a lookup found.
#[derive(Debug)]
pub(super) enum Known {
    Voice(VoiceRow),
    Stream(StreamRow),
}

/// What became of a stream that was written off.
#[derive(Debug)]
pub(super) struct EndedStream {
    pub(super) stream: StreamRow,
    /// The owner's voice state, which showed the stream until now.
    pub(super) owner: Option<VoiceRow>,
}

/// Somebody whom the tables believe in a channel, and the region of its guild.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) row: VoiceRow,
    pub(super) region: Option<String>,
}

/// The database.
#[derive(Clone)]
pub(super) struct Database {
    pool: Pool,
    config: Config,
    tls: Option<MakeRustlsConnect>,
}

/// Columns of [`voice_row`], in its order.
macro_rules! voice_columns {
    ($table:literal) => {
        concat!(
            $table,
            ".user_id, ",
            $table,
            ".session_id, ",
            $table,
            ".token, ",
            $table,
            ".guild_id, ",
            $table,
            ".channel_id, ",
            $table,
            ".mute, ",
            $table,
            ".deaf, ",
            $table,
            ".suppress, ",
            $table,
            ".self_mute, ",
            $table,
            ".self_deaf, ",
            $table,
            ".self_video, ",
            "coalesce(",
            $table,
            ".self_stream, false), ",
            "to_char(",
            $table,
            ".request_to_speak_timestamp, ",
            "'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"
        )
    };
}

const LOOKUP: &str = concat!(
    "WITH voice AS (SELECT * FROM voice_states WHERE user_id = $1 AND session_id = $2 ",
    "AND token = $3 AND channel_id IS NOT NULL ",
    "AND (guild_id = $4 OR guild_id IS NULL AND channel_id = $4) ",
    "AND ($5 IS NULL OR channel_id = $5) LIMIT 1), ",
    // One statement finds the stream's session and uses it up: of two at once one gets it.
    "stream AS (UPDATE stream_sessions s SET used = true FROM streams t ",
    "WHERE t.id = s.stream_id AND s.user_id = $1 AND s.session_id = $2 AND s.token = $3 ",
    "AND s.stream_id = $4 AND NOT s.used AND NOT EXISTS (SELECT FROM voice) ",
    "RETURNING t.id, t.owner_id, t.channel_id) ",
    "SELECT ",
    voice_columns!("v"),
    ", s.id, s.owner_id, s.channel_id, c.guild_id ",
    "FROM voice v FULL JOIN stream s ON false LEFT JOIN channels c ON c.id = s.channel_id"
);

const WHOSE: &str = "SELECT user_id FROM voice_states WHERE session_id = $1 AND token = $2 \
     AND channel_id IS NOT NULL AND (guild_id = $3 OR guild_id IS NULL AND channel_id = $3) LIMIT 1";

const LEAVE: &str = concat!(
    "WITH gone AS (UPDATE voice_states SET channel_id = NULL, guild_id = NULL, ",
    "self_stream = false, self_video = false, request_to_speak_timestamp = NULL ",
    "WHERE user_id = $1 AND session_id = $2 AND token = $3 AND channel_id = $4 RETURNING *), ",
    // An attempt whose answer was lost may have been carried out.
    "before AS (SELECT * FROM voice_states WHERE $5 AND user_id = $1 AND session_id = $2 ",
    "AND token = $3 AND channel_id IS NULL AND NOT EXISTS (SELECT FROM gone)) ",
    "SELECT ",
    voice_columns!("r"),
    " FROM (SELECT * FROM gone UNION ALL SELECT * FROM before) r LIMIT 1"
);

const LEAVE_STREAM: &str = concat!(
    "WITH seat AS (DELETE FROM stream_sessions WHERE stream_id = $1 AND user_id = $2 ",
    "AND session_id = $3 AND token = $4), ",
    "ended AS (DELETE FROM streams WHERE $5 AND id = $1 AND owner_id = $2 ",
    "RETURNING id, owner_id, channel_id), ",
    "owner AS (UPDATE voice_states SET self_stream = false WHERE user_id = $2 ",
    "AND self_stream AND EXISTS (SELECT FROM ended) RETURNING *) ",
    "SELECT ",
    voice_columns!("o"),
    ", e.id, e.owner_id, e.channel_id, c.guild_id ",
    "FROM ended e LEFT JOIN owner o ON true LEFT JOIN channels c ON c.id = e.channel_id LIMIT 1"
);

const ROWS: &str =
    concat!("SELECT ", voice_columns!("v"), " FROM voice_states v WHERE v.user_id = ANY($1)");

const STREAMS: &str = "SELECT id FROM streams WHERE id = ANY($1)";

const ONE: &str = concat!(
    "SELECT ",
    voice_columns!("v"),
    ", g.region FROM voice_states v LEFT JOIN guilds g ON g.id = v.guild_id ",
    "WHERE v.user_id = $1 AND v.session_id = $2 AND v.channel_id = $3 ",
    "AND v.token IS NOT NULL LIMIT 1"
);

const EXPECTED: &str = concat!(
    "SELECT ",
    voice_columns!("v"),
    ", g.region FROM voice_states v LEFT JOIN guilds g ON g.id = v.guild_id ",
    "WHERE v.channel_id IS NOT NULL AND v.token IS NOT NULL LIMIT $1"
);

const EXPECTED_STREAMS: &str = "SELECT t.id, t.owner_id, t.channel_id, c.guild_id FROM streams t \
     LEFT JOIN channels c ON c.id = t.channel_id WHERE t.endpoint = $1 LIMIT $2";

/// `simple-json` columns hold JSON in text.
const REGIONS: &str = "SELECT key, value::text FROM config WHERE key LIKE 'regions\\_%'";

impl Database {
    /// Connects to nothing yet.
    pub(super) fn new(settings: &SpacebarDatabase) -> Result<Self, DatabaseError> {
        // The parser's own words may quote the text it was given.
        let mut config = Config::from_str(&settings.understood_url())
            .map_err(|_| DatabaseError::Setup("not a PostgreSQL URL".to_owned()))?;
        config
            .application_name("stentor")
            .connect_timeout(CONNECT_TIMEOUT)
            .keepalives(true)
            .keepalives_idle(KEEPALIVE)
            .tcp_user_timeout(KEEPALIVE);
        // Its default, or asked for: whoever is on the way could answer that there is no TLS.
        if config.get_ssl_mode() == SslMode::Prefer {
            config.ssl_mode(match is_local(&config) {
                true => SslMode::Disable,
                false => SslMode::Require,
            });
        }
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            _ => Some(tls(settings.ca.as_deref())?),
        };
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = match &tls {
            Some(tls) => Manager::from_config(config.clone(), tls.clone(), recycling),
            None => Manager::from_config(config.clone(), NoTls, recycling),
        };
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS_MAX)
            .create_timeout(Some(CONNECT_TIMEOUT))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| DatabaseError::Setup(error.to_string()))?;
        Ok(Self { pool, config, tls })
    }

    /// Whose Identify this is. A stream's session is used up by it.
    pub(super) async fn look_up(
        &self,
        holder: Holder,
        session: &SessionId,
        token: &Token,
        channel: Option<ChannelId>,
    ) -> Result<Option<Known>, DatabaseError> {
        // Ids beyond the signed range are nobody's.
        let (Some(user), Some(server)) = (signed(holder.user.0), signed(holder.server.0)) else {
            return Ok(None);
        };
        let channel = channel.map(|channel| signed(channel.0).unwrap_or(-1));
        // Text with a NUL cannot even be asked for.
        if session.0.contains('\0') || token.reveal().contains('\0') {
            return Ok(None);
        }
        let (session, token) = (&*session.0, token.reveal());
        let rows = self
            .ask(
                LOOKUP,
                &[
                    (&user, Type::INT8),
                    (&session, Type::TEXT),
                    (&token, Type::TEXT),
                    (&server, Type::INT8),
                    (&channel, Type::INT8),
                ],
            )
            .await?;
        let Some(row) = rows.first() else { return Ok(None) };
        match voice_row(row)? {
            Some(voice) => Ok(Some(Known::Voice(voice))),
            None => Ok(stream_row(row, VOICE_COLUMNS)?.map(Known::Stream)),
        }
    }

    /// Whose voice session this is.
    pub(super) async fn whose(
        &self,
        server: ServerId,
        session: &SessionId,
        token: &Token,
    ) -> Result<Option<UserId>, DatabaseError> {
        let Some(server) = signed(server.0) else { return Ok(None) };
        if session.0.contains('\0') || token.reveal().contains('\0') {
            return Ok(None);
        }
        let (session, token) = (&*session.0, token.reveal());
        let parameters: [Parameter<'_>; 3] =
            [(&session, Type::TEXT), (&token, Type::TEXT), (&server, Type::INT8)];
        let rows = self.ask(WHOSE, &parameters).await?;
        Ok(rows.first().map_or(Ok(None), |row| id(row, 0))?.map(UserId))
    }

    /// Takes somebody out of his channel, if his row still puts him there by the same right; gives
    /// the row if it did, or if an earlier attempt already had.
    pub(super) async fn leave(
        &self,
        departure: &Departure,
        channel: ChannelId,
        is_retry: bool,
    ) -> Result<Option<VoiceRow>, DatabaseError> {
        let (user, channel) = (departure.holder.user.0 as i64, channel.0 as i64);
        let (session, token) = (&*departure.session.0, departure.token.reveal());
        let rows = self
            .ask(
                LEAVE,
                &[
                    (&user, Type::INT8),
                    (&session, Type::TEXT),
                    (&token, Type::TEXT),
                    (&channel, Type::INT8),
                    (&is_retry, Type::BOOL),
                ],
            )
            .await?;
        rows.first().map_or(Ok(None), voice_row)
    }

    /// Takes somebody out of a stream; his own ends with him.
    pub(super) async fn leave_stream(
        &self,
        departure: &Departure,
    ) -> Result<Option<EndedStream>, DatabaseError> {
        let is_owner = matches!(departure.stay, Stay::Stream { is_owner: true, .. });
        let (stream, user) = (departure.holder.server.0 as i64, departure.holder.user.0 as i64);
        let (session, token) = (&*departure.session.0, departure.token.reveal());
        let rows = self
            .ask(
                LEAVE_STREAM,
                &[
                    (&stream, Type::INT8),
                    (&user, Type::INT8),
                    (&session, Type::TEXT),
                    (&token, Type::TEXT),
                    (&is_owner, Type::BOOL),
                ],
            )
            .await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let owner = voice_row(row)?;
        Ok(stream_row(row, VOICE_COLUMNS)?.map(|stream| EndedStream { stream, owner }))
    }

    /// The voice states of these users, and which of these streams there are.
    pub(super) async fn rows(
        &self,
        users: &[UserId],
        streams: &[ChannelId],
    ) -> Result<(Vec<VoiceRow>, Vec<ChannelId>), DatabaseError> {
        let users: Vec<i64> = users.iter().map(|user| user.0 as i64).collect();
        let streams: Vec<i64> = streams.iter().map(|stream| stream.0 as i64).collect();
        let rows = match users.is_empty() {
            true => Vec::new(),
            false => self.ask(ROWS, &[(&users, Type::INT8_ARRAY)]).await?,
        };
        let there = match streams.is_empty() {
            true => Vec::new(),
            false => self.ask(STREAMS, &[(&streams, Type::INT8_ARRAY)]).await?,
        };
        let rows: Vec<_> = rows.iter().map(voice_row).collect::<Result<_, _>>()?;
        let there: Vec<_> = there.iter().map(|row| id(row, 0)).collect::<Result<_, _>>()?;
        let there = there.into_iter().flatten().map(ChannelId).collect();
        Ok((rows.into_iter().flatten().collect(), there))
    }

    /// The voice state of this user in this session and channel.
    pub(super) async fn one(
        &self,
        user: UserId,
        session: &SessionId,
        channel: ChannelId,
    ) -> Result<Option<Expected>, DatabaseError> {
        let (user, channel) = (user.0 as i64, channel.0 as i64);
        let session = &*session.0;
        let parameters: [Parameter<'_>; 3] =
            [(&user, Type::INT8), (&session, Type::TEXT), (&channel, Type::INT8)];
        let rows = self.ask(ONE, &parameters).await?;
        rows.first().map_or(Ok(None), expected)
    }

    /// Everybody in a channel, and every stream at this endpoint.
    pub(super) async fn expected(
        &self,
        endpoint: &str,
    ) -> Result<(Vec<Expected>, Vec<StreamRow>), DatabaseError> {
        let voices = self.ask(EXPECTED, &[(&EXPECTED_MAX, Type::INT8)]).await?;
        let streams = self
            .ask(EXPECTED_STREAMS, &[(&endpoint, Type::TEXT), (&EXPECTED_MAX, Type::INT8)])
            .await?;
        let voices: Vec<_> = voices.iter().map(expected).collect::<Result<_, _>>()?;
        let streams: Vec<_> =
            streams.iter().map(|row| stream_row(row, 0)).collect::<Result<_, _>>()?;
        Ok((voices.into_iter().flatten().collect(), streams.into_iter().flatten().collect()))
    }

    /// The settings of regions, as key and JSON.
    pub(super) async fn regions(&self) -> Result<Vec<(String, String)>, DatabaseError> {
        let rows = self.ask(REGIONS, &[]).await?;
        let pairs = rows.iter().map(|row| {
            let value: Option<String> = get(row, 1)?;
            Ok((get(row, 0)?, value.unwrap_or_else(|| "null".to_owned())))
        });
        pairs.collect()
    }

    /// Runs one statement of text only, such as a definition.
    pub(super) async fn execute(&self, text: &str) -> Result<(), DatabaseError> {
        let client = self.client().await?;
        match tokio::time::timeout(QUERY_TIMEOUT, client.batch_execute(text)).await {
            Ok(done) => done.map_err(query_error),
            Err(_) => Err(self.abandon(client)),
        }
    }

    /// One statement, one round trip.
    pub(super) async fn ask(
        &self,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, DatabaseError> {
        let client = self.client().await?;
        let query = client.query_typed(statement, parameters);
        match tokio::time::timeout(QUERY_TIMEOUT, query).await {
            Ok(rows) => rows.map_err(query_error),
            Err(_) => Err(self.abandon(client)),
        }
    }

    /// Gives up a connection that does not answer: whoever had it next would wait for what was
    /// asked before. The server is told, for a statement that waits for a lock there goes on
    /// waiting when nobody wants it any more, and holds one of the places that Spacebar needs too.
    fn abandon(&self, client: Object) -> DatabaseError {
        let cancel = client.cancel_token();
        drop(Object::take(client));
        let tls = self.tls.clone();
        tokio::spawn(tokio::time::timeout(CONNECT_TIMEOUT, async move {
            // If it cannot be told it is not there to wait.
            let _ = match tls {
                Some(tls) => cancel.cancel_query(tls).await,
                None => cancel.cancel_query(NoTls).await,
            };
        }));
        DatabaseError::Timeout
    }

    /// A connection of its own, for whoever listens on it. The second value must be polled for the
    /// first to work.
    pub(super) async fn connect(&self) -> Result<(Client, Listening), DatabaseError> {
        let refused = |error| DatabaseError::Connect(said(&error));
        let connecting = async {
            match &self.tls {
                Some(tls) => {
                    let (client, connection) =
                        self.config.connect(tls.clone()).await.map_err(refused)?;
                    Ok((client, Listening::Tls(Box::new(connection))))
                }
                None => {
                    let (client, connection) = self.config.connect(NoTls).await.map_err(refused)?;
                    Ok((client, Listening::Plain(Box::new(connection))))
                }
            }
        };
        match tokio::time::timeout(2 * CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(DatabaseError::Timeout),
        }
    }

    async fn client(&self) -> Result<Object, DatabaseError> {
        let got = self.pool.get().await;
        got.map_err(|error| match error {
            deadpool_postgres::PoolError::Backend(error) => DatabaseError::Connect(said(&error)),
            deadpool_postgres::PoolError::Timeout(_) => DatabaseError::Timeout,
            other => DatabaseError::Connect(other.to_string()),
        })
    }
}

type TlsStream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// A connection's other half.
pub(super) enum Listening {
    Plain(Box<Connection<Socket, NoTlsStream>>),
    Tls(Box<Connection<Socket, TlsStream>>),
}

impl Listening {
    /// The next message that answers nothing; `None` at the connection's end.
    pub(super) async fn next(
        &mut self,
    ) -> Option<Result<tokio_postgres::AsyncMessage, DatabaseError>> {
        let next = std::future::poll_fn(|cx| match self {
            Listening::Plain(connection) => connection.poll_message(cx),
            Listening::Tls(connection) => connection.poll_message(cx),
        });
        next.await.map(|message| message.map_err(query_error))
    }
}

/// Whether every host is this machine.
fn is_local(config: &Config) -> bool {
    let is_loopback = |host: &Host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost"
                || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
    };
    config.get_hosts().iter().all(is_loopback)
        && config.get_hostaddrs().iter().all(std::net::IpAddr::is_loopback)
}

fn tls(ca: Option<&Path>) -> Result<MakeRustlsConnect, DatabaseError> {
    let config = match ca {
        Some(path) => tls_stream::client_config_from(path),
        None => tls_stream::client_config(),
    };
    let config = config.map_err(|error| DatabaseError::Setup(error.to_string()))?;
    Ok(MakeRustlsConnect::new(Arc::unwrap_or_clone(config)))
}

/// A statement's parameter and its type.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// How many columns [`voice_row`] reads.
const VOICE_COLUMNS: usize = 13;

/// `None` where the row has no voice state but nulls.
fn voice_row(row: &Row) -> Result<Option<VoiceRow>, DatabaseError> {
    let Some(user) = id(row, 0)? else { return Ok(None) };
    let flag = |index| Ok::<_, DatabaseError>(get::<Option<bool>>(row, index)?.unwrap_or(false));
    Ok(Some(VoiceRow {
        user: UserId(user),
        session: SessionId(get::<String>(row, 1)?.into()),
        token: get::<Option<String>>(row, 2)?.map(Token::new),
        guild: id(row, 3)?.map(ServerId),
        channel: id(row, 4)?.map(ChannelId),
        state: VoiceState {
            mute: flag(5)?,
            deaf: flag(6)?,
            suppress: flag(7)?,
            self_mute: flag(8)?,
            self_deaf: flag(9)?,
            self_video: flag(10)?,
        },
        self_stream: flag(11)?,
        request_to_speak: get(row, 12)?,
    }))
}

fn stream_row(row: &Row, first: usize) -> Result<Option<StreamRow>, DatabaseError> {
    let (Some(stream), Some(owner), Some(channel)) =
        (id(row, first)?, id(row, first + 1)?, id(row, first + 2)?)
    else {
        return Ok(None);
    };
    Ok(Some(StreamRow {
        stream: ChannelId(stream),
        owner: UserId(owner),
        channel: ChannelId(channel),
        guild: id(row, first + 3)?.map(ServerId),
    }))
}

fn expected(row: &Row) -> Result<Option<Expected>, DatabaseError> {
    let region = get(row, VOICE_COLUMNS)?;
    Ok(voice_row(row)?.map(|row| Expected { row, region }))
}

/// A snowflake: `bigint` in the table.
fn id(row: &Row, index: usize) -> Result<Option<u64>, DatabaseError> {
    Ok(get::<Option<i64>>(row, index)?.map(|id| id as u64))
}

fn get<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    index: usize,
) -> Result<T, DatabaseError> {
    row.try_get(index).map_err(query_error)
}

fn signed(id: u64) -> Option<i64> {
    i64::try_from(id).ok()
}

fn query_error(error: tokio_postgres::Error) -> DatabaseError {
    match error.is_closed() {
        true => DatabaseError::Connect(said(&error)),
        false => DatabaseError::Query(said(&error)),
    }
}

/// The error with its cause: the client's own text is only its kind.
fn said(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
