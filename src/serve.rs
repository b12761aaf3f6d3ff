//! `stentor serve`: runs the server until it is told to stop, and tells the operator what runs
//! where. The server itself is `driver::server`.

use std::{sync::Arc, time::Duration};

use tokio::signal::unix::{SignalKind, signal};

use crate::{
    config::Config,
    driver::server::{self, ServeError, Server, keep_off, reserve_descriptors},
};

/// Tells whether a server would start with these settings, as far as can be told without starting
/// one.
///
/// # Errors
/// What is wrong with them.
pub fn check(config: &Config) -> Result<(), ServeError> {
    server::check(config)?;
    for notice in &config.notices {
        println!("{notice}");
    }
    println!("the settings are fine");
    Ok(())
}

/// Runs the server until SIGINT or SIGTERM. SIGHUP makes it read its certificate again.
///
/// # Errors
/// It could not start, or the control thread died.
pub fn serve(config: Config) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| ServeError::Setup { what: "wait for signals", source })?;
    reserve_descriptors();
    keep_off(config.shards.get().into());
    let config = Arc::new(config);
    runtime.block_on(async {
        let setup = |source| ServeError::Setup { what: "wait for signals", source };
        let mut interrupt = signal(SignalKind::interrupt()).map_err(setup)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(setup)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(setup)?;
        let server = Server::start(config.clone())?;
        announce(&config, &server);
        let mut watch = tokio::time::interval(Duration::from_secs(1));
        let failed = loop {
            tokio::select! {
                _ = interrupt.recv() => break false,
                _ = terminate.recv() => break false,
                _ = hangup.recv() => reload(&server),
                _ = watch.tick() => if server.has_failed() { break true },
            }
        };
        println!("stentor is stopping: clients are told to reconnect");
        let stopped = server.stop();
        if failed { stopped.and(Err(ServeError::Died)) } else { stopped }
    })
}

/// A new certificate is shown from the next handshake on.
fn reload(server: &Server) {
    match server.reload_certificate() {
        Ok(true) => tracing::info!("the certificate was read again"),
        Ok(false) => tracing::info!("there is no certificate to read again"),
        Err(error) => tracing::error!(%error, "the old certificate stays in use"),
    }
}

/// Tells the operator what runs where, and what to do next.
fn announce(config: &Config, server: &Server) {
    let ports = server.media_ports();
    let (first, last) = (ports.first().unwrap_or(&0), ports.last().unwrap_or(&0));
    println!("stentor {} is ready", env!("CARGO_PKG_VERSION"));
    println!(
        "  gateway   {} (clients connect to wss://{}/)",
        server.gateway(),
        config.gateway.public_endpoint.as_str()
    );
    println!(
        "  media     UDP {} ports {first}-{last}, announced as {}",
        config.media.listen, config.media.public_ip
    );
    println!(
        "  control   http://{}/v1, metrics at http://{}/metrics",
        server.control(),
        server.control()
    );
    if let Some(tls) = &config.gateway.tls {
        println!("  certificate {}", tls.certificate.display());
    }
    for notice in &config.notices {
        println!("  {notice}");
    }
    println!("get grants:  stentor grant --server-id 1 --channel 2 --user 10 --user 11");
    if config.development {
        println!("or talk:     open http://{}/ in two tabs of a browser", server.control());
    } else {
        println!("or talk:     the same with --link prints links for browsers");
    }
}
