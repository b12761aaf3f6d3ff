//! Spacebar's bus over RabbitMQ (protocol.md §6.1): one exchange for everything, or, in its older
//! form, one for each id. Listens on a queue of its own, for on Spacebar's shared one it would take
//! events away from it.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_channel::Receiver;
use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer,
    ExchangeKind,
    message::Delivery,
    options::{
        BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
        QueueBindOptions, QueueDeclareOptions,
    },
    runtime::default_runtime,
    tcp::OwnedTLSConfig,
    types::{AMQPValue, FieldTable, LongString},
    uri::AMQPUri,
};
use tracing::{info, warn};

use super::{
    bus::Unsaid,
    errands::Desk,
    event::{self, Notice},
    tally::count,
    vigil,
};
use crate::config::{Exchanges, SpacebarBroker};

/// Time to connect, TLS and password included; and for the broker to take one event.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Pause before the next attempt to connect.
const RETRY: Duration = Duration::from_secs(1);

/// How often it is looked whose exchanges are worth listening to.
const REBIND: Duration = Duration::from_secs(1);

/// Events the broker keeps for us while we are slow, and for how long: what is older the tables
/// have told us.
const QUEUE_MAX: i32 = 65_536;
const QUEUE_TTL_MS: i32 = 10_000;

/// Exchanges listened to at most, where every id has its own.
const BINDINGS_MAX: usize = 16_384;

/// Events that waited longer are looked at before they are said: a departure is no news of somebody
/// who is back.
const STALE: Duration = Duration::from_secs(2);

/// By whom our own events are known, which the exchange hands to us too. What we say is no news to
/// us, and by the time it comes may be wrong.
const SELF: &str = "stentor";

/// The exchange for everything.
const EXCHANGE: &str = "-";

/// Listens, and says what waits to be said, as long as it is polled.
pub(super) async fn converse(
    desk: &Arc<Desk>,
    settings: &SpacebarBroker,
    exchanges: Exchanges,
    notices: &Receiver<Unsaid>,
) {
    let mut unsaid = None;
    let mut has_complained = false;
    loop {
        match connect(settings).await {
            Ok(broker) => {
                has_complained = false;
                let ended = broker.converse(desk, exchanges, notices, &mut unsaid).await;
                desk.tally().watching.store(false, Ordering::Relaxed);
                let error = ended.err().map_or_else(|| "closed".to_owned(), |it| it.to_string());
                warn!(error, "the message broker has gone; connecting anew");
            }
            Err(error) if !has_complained => {
                has_complained = true;
                warn!(%error, "cannot connect to the message broker");
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Whether the URL is one, and its authority can be read.
pub(super) fn check(settings: &SpacebarBroker) -> Result<(), String> {
    parse(settings).map_err(|error| error.to_string())?;
    trust(settings).map(drop).map_err(|error| error.to_string())
}

/// The parser's own words may quote the password.
fn parse(settings: &SpacebarBroker) -> Result<AMQPUri, BrokerError> {
    let text = std::str::from_utf8(settings.url.reveal()).map_err(|_| BrokerError::Url)?;
    text.parse().map_err(|_: String| BrokerError::Url)
}

/// Whom to trust beside those whom the machine does.
fn trust(settings: &SpacebarBroker) -> Result<OwnedTLSConfig, BrokerError> {
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path);
        text.map_err(|error| BrokerError::Authority(format!("{}: {error}", path.display())))
    };
    let cert_chain = settings.ca.as_ref().map(read).transpose()?;
    Ok(OwnedTLSConfig { identity: None, cert_chain })
}

/// Connects, for whoever only wants to know whether that can be done.
pub(super) async fn try_connect(settings: &SpacebarBroker) -> Result<(), String> {
    let broker = connect(settings).await.map_err(|error| error.to_string())?;
    let _ = broker.connection.close(200, "tried".into()).await;
    Ok(())
}

struct Broker {
    connection: Connection,
    channel: Channel,
    queue: String,
    consumer: Consumer,
}

/// Never has a password in it: the client's errors do not repeat the URL.
#[derive(Debug, thiserror::Error)]
enum BrokerError {
    #[error("not an AMQP URL")]
    Url,
    #[error("{0}")]
    Authority(String),
    #[error("{0}")]
    Amqp(#[from] lapin::Error),
    #[error("no answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
    #[error("the broker did not take an event")]
    Refused,
}

async fn connect(settings: &SpacebarBroker) -> Result<Broker, BrokerError> {
    tokio::time::timeout(TIMEOUT, connect_unbounded(settings)).await?
}

async fn connect_unbounded(settings: &SpacebarBroker) -> Result<Broker, BrokerError> {
    let name = LongString::from(SELF);
    let properties = ConnectionProperties::default().with_connection_name(name);
    let (uri, trust) = (parse(settings)?, trust(settings)?);
    let runtime = default_runtime()?;
    let connection = Connection::connect_uri_with_config(uri, properties, trust, runtime).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut bounds = FieldTable::default();
    bounds.insert("x-max-length".into(), AMQPValue::LongInt(QUEUE_MAX));
    bounds.insert("x-message-ttl".into(), AMQPValue::LongInt(QUEUE_TTL_MS));
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let queue = channel.queue_declare("".into(), options, bounds).await?;
    let queue = queue.name().to_string();
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let consumer = channel
        .basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default())
        .await?;
    Ok(Broker { connection, channel, queue, consumer })
}

impl Broker {
    async fn converse(
        mut self,
        desk: &Arc<Desk>,
        exchanges: Exchanges,
        notices: &Receiver<Unsaid>,
        unsaid: &mut Option<Unsaid>,
    ) -> Result<(), BrokerError> {
        let mut bound = BTreeSet::new();
        if exchanges == Exchanges::Single {
            tokio::time::timeout(TIMEOUT, self.bind(EXCHANGE)).await??;
        }
        info!("listening on Spacebar's bus at the message broker");
        desk.tally().watching.store(true, Ordering::Relaxed);
        // What has happened before was not heard.
        vigil::look_again(desk);
        let mut rebind = tokio::time::interval(REBIND);
        loop {
            // What the last connection did not take comes first.
            if let Some(Unsaid { notice, since }) = unsaid.as_ref() {
                if since.elapsed() < STALE || is_still_so(desk, notice).await {
                    tokio::time::timeout(TIMEOUT, self.publish(exchanges, notice)).await??;
                    count(&desk.tally().said);
                } else {
                    count(&desk.tally().unsaid);
                }
                *unsaid = None;
            }
            tokio::select! {
                delivery = self.consumer.next() => match delivery {
                    Some(delivery) => hear(desk, exchanges, &delivery?),
                    None => return Ok(()),
                },
                notice = notices.recv() => match notice {
                    Ok(notice) => *unsaid = Some(notice),
                    Err(_) => return Ok(()),
                },
                _ = rebind.tick(), if exchanges == Exchanges::PerId => {
                    let wanted = desk.node().look(|authority| authority.presence().addresses);
                    self.follow(desk, &mut bound, wanted).await?;
                }
            }
        }
    }

    /// Listens to these exchanges and no others.
    async fn follow(
        &self,
        desk: &Desk,
        bound: &mut BTreeSet<u64>,
        wanted: Vec<u64>,
    ) -> Result<(), BrokerError> {
        let wanted: BTreeSet<u64> = wanted.into_iter().take(BINDINGS_MAX).collect();
        let missing: Vec<u64> = wanted.difference(bound).copied().collect();
        for id in &missing {
            self.bind(&id.to_string()).await?;
        }
        for id in bound.difference(&wanted) {
            let (queue, exchange) = (self.queue.as_str().into(), id.to_string().as_str().into());
            let table = FieldTable::default();
            self.channel.queue_unbind(queue, exchange, "".into(), table).await?;
        }
        *bound = wanted;
        if !missing.is_empty() {
            vigil::look_again(desk);
        }
        Ok(())
    }

    async fn bind(&self, exchange: &str) -> Result<(), BrokerError> {
        self.declare(exchange).await?;
        let (queue, exchange) = (self.queue.as_str().into(), exchange.into());
        let options = QueueBindOptions::default();
        self.channel.queue_bind(queue, exchange, "".into(), options, FieldTable::default()).await?;
        Ok(())
    }

    /// As Spacebar declares it; whoever comes first makes it.
    async fn declare(&self, exchange: &str) -> Result<(), BrokerError> {
        let options = ExchangeDeclareOptions::default();
        let table = FieldTable::default();
        self.channel
            .exchange_declare(exchange.into(), ExchangeKind::Fanout, options, table)
            .await?;
        Ok(())
    }

    async fn publish(&self, exchanges: Exchanges, notice: &Notice) -> Result<(), BrokerError> {
        let (exchange, bytes, properties) = match exchanges {
            Exchanges::Single => {
                (EXCHANGE.to_owned(), notice.to_json(), BasicProperties::default())
            }
            Exchanges::PerId => (
                notice.id.to_string(),
                notice.data.to_string().into_bytes(),
                BasicProperties::default().with_type(notice.name.into()),
            ),
        };
        let properties = properties.with_app_id(SELF.into());
        self.declare(&exchange).await?;
        let options = BasicPublishOptions::default();
        let exchange = exchange.as_str().into();
        let taken =
            self.channel.basic_publish(exchange, "".into(), options, &bytes, properties).await?;
        match taken.await? {
            Confirmation::Nack(_) => Err(BrokerError::Refused),
            Confirmation::Ack(_) | Confirmation::NotRequested => Ok(()),
        }
    }
}

/// Whether the tables still say what a notice does. If they cannot be asked, it is said as it is.
async fn is_still_so(desk: &Desk, notice: &Notice) -> bool {
    let Some(claim) = notice.claim else { return true };
    let rows = desk.database().rows(&[claim.user], &[]).await;
    rows.map_or(true, |(rows, _)| claim.agrees_with(&rows))
}

fn hear(desk: &Arc<Desk>, exchanges: Exchanges, delivery: &Delivery) {
    if delivery.properties.app_id().as_ref().is_some_and(|name| name.as_str() == SELF) {
        return;
    }
    let happening = match exchanges {
        Exchanges::Single => event::read(&delivery.data),
        Exchanges::PerId => {
            let name = delivery.properties.kind().as_ref().map_or("", |name| name.as_str());
            event::read_bare(name, delivery.exchange.as_str(), &delivery.data)
        }
    };
    if let Some(happening) = happening {
        vigil::hear(desk, happening);
    }
}
