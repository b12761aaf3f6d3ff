//! A real RabbitMQ, and somebody who speaks to it as Spacebar does.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer, ExchangeKind,
    options::{
        BasicConsumeOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions,
        QueueDeclareOptions,
    },
    types::FieldTable,
};
use tempfile::TempDir;

use super::{
    WAIT,
    authority::Authority,
    service::{Service, directory, free_port, program, unprivileged},
};

const BINARIES: &[&str] = &["/usr/lib/rabbitmq/bin"];

/// A message broker with a port mapper of its own, on ports of its own.
pub struct Broker {
    directory: TempDir,
    port: u16,
    mapper_port: u16,
    distribution_port: u16,
    service: Option<Service>,
    _mapper: Service,
    /// Who signs its certificate, and the port at which it shows that.
    tls: Option<(Authority, u16)>,
}

impl Broker {
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// One that speaks TLS too, at a port of its own.
    pub fn start_with_tls() -> Self {
        Self::start_with(Some((Authority::new(), free_port())))
    }

    fn start_with(tls: Option<(Authority, u16)>) -> Self {
        let directory = directory();
        let mapper_port = free_port();
        // Erlang would start one as a daemon, which would outlive everything.
        let mut mapper =
            unprivileged(&program("epmd", &["/usr/lib/erlang/*/bin"]), directory.path());
        mapper.args(["-port", &mapper_port.to_string(), "-address", "127.0.0.1"]);
        let mapper = Service::start(mapper, &directory.path().join("epmd.log"), mapper_port);
        let mut broker = Self {
            directory,
            port: free_port(),
            mapper_port,
            distribution_port: free_port(),
            service: None,
            _mapper: mapper,
            tls,
        };
        if let Some((authority, port)) = &broker.tls {
            let (certificate, key) = authority.server();
            let settings = format!(
                "listeners.ssl.default = 127.0.0.1:{port}\n\
                 ssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
                 ssl_options.keyfile = {}\nssl_options.verify = verify_none\n",
                authority.root().display(),
                certificate.display(),
                key.display()
            );
            fs::write(broker.directory.path().join("rabbitmq.conf"), settings).expect("it is ours");
        }
        fs::write(broker.directory.path().join("plugins"), "[].\n").expect("it is ours");
        broker.resume();
        broker
    }

    /// Starts it again, with what it had forgotten.
    pub fn resume(&mut self) {
        let home = self.directory.path();
        let mut command: Command = unprivileged(&program("rabbitmq-server", BINARIES), home);
        command
            .env("RABBITMQ_NODENAME", format!("stentor{}@localhost", self.port))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.distribution_port.to_string())
            .env("RABBITMQ_MNESIA_BASE", home.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", home.join("logs"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", home.join("plugins"))
            .env("RABBITMQ_CONF_ENV_FILE", home.join("no-such-file"))
            // There where TLS is spoken.
            .env("RABBITMQ_CONFIG_FILE", home.join("rabbitmq.conf"))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 1:1 +sbwt none")
            .env("ERL_EPMD_PORT", self.mapper_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1");
        self.service = Some(Service::start(command, &home.join("log"), self.port));
    }

    /// Ends it at once.
    pub fn stop(&mut self) {
        self.service.take().expect("it runs").stop("KILL");
    }

    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// Where it speaks TLS, and whom to trust.
    pub fn url_with_tls(&self) -> (String, PathBuf) {
        let (authority, port) = self.tls.as_ref().expect("it speaks TLS");
        (format!("amqps://guest:guest@localhost:{port}/%2f"), authority.root())
    }
}

/// One connection to the broker, driven from a test's own thread.
pub struct Talker {
    runtime: tokio::runtime::Runtime,
    _connection: Connection,
    channel: Channel,
    consumer: Consumer,
}

impl Talker {
    /// Connects, and listens to this exchange.
    pub fn on(broker: &Broker, exchange: &str) -> Self {
        // The client's I/O runs on its own; a test blocks its thread.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let deadline = Instant::now() + WAIT;
        let (connection, channel, consumer) = loop {
            match runtime.block_on(connect(&broker.url(), exchange)) {
                Ok(connected) => break connected,
                // Its port answers before it does.
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            thread::sleep(Duration::from_millis(100));
        };
        Self { runtime, _connection: connection, channel, consumer }
    }

    /// Publishes bytes to an exchange, of this type if one is given.
    pub fn say(&self, exchange: &str, kind: Option<&str>, bytes: &[u8]) {
        let properties = match kind {
            Some(kind) => BasicProperties::default().with_type(kind.into()),
            None => BasicProperties::default(),
        };
        self.runtime.block_on(async {
            declare(&self.channel, exchange).await.expect("an exchange");
            let options = BasicPublishOptions::default();
            let exchange = exchange.into();
            let said =
                self.channel.basic_publish(exchange, "".into(), options, bytes, properties).await;
            said.expect("the broker listens").await.expect("the broker confirms");
        });
    }

    /// The next message that fits: its type and its bytes.
    pub fn hear(&mut self, what: &str, fits: impl Fn(&str, &[u8]) -> bool) -> (String, Vec<u8>) {
        let consumer = &mut self.consumer;
        self.runtime.block_on(async {
            let heard = tokio::time::timeout(WAIT, async {
                while let Some(delivery) = consumer.next().await {
                    let delivery = delivery.expect("the broker goes on");
                    let kind = delivery.properties.kind().as_ref();
                    let kind = kind.map_or_else(String::new, |kind| kind.as_str().to_owned());
                    if fits(&kind, &delivery.data) {
                        return (kind, delivery.data);
                    }
                }
                panic!("{what}: the broker has gone")
            });
            heard.await.unwrap_or_else(|_| panic!("{what}: not heard"))
        })
    }
}

async fn connect(url: &str, exchange: &str) -> lapin::Result<(Connection, Channel, Consumer)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    declare(&channel, exchange).await?;
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let queue = channel.queue_declare("".into(), options, FieldTable::default()).await?;
    let name = queue.name().clone();
    let options = QueueBindOptions::default();
    let (to, table) = (exchange.into(), FieldTable::default());
    channel.queue_bind(name.clone(), to, "".into(), options, table).await?;
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let consumer = channel.basic_consume(name, "".into(), options, FieldTable::default()).await?;
    Ok((connection, channel, consumer))
}

async fn declare(channel: &Channel, exchange: &str) -> lapin::Result<()> {
    let options = ExchangeDeclareOptions::default();
    let table = FieldTable::default();
    channel.exchange_declare(exchange.into(), ExchangeKind::Fanout, options, table).await
}
