//! Whether a Spacebar can be worked for, from what a checkup has seen; why each thing matters and
//! what mends it. Pure; called by `report::run`.

use super::{Finding, judge::finding};
use crate::control::spacebar::checkup::Checkup;

/// Judges one Spacebar.
pub fn judge_spacebar(seen: &Checkup) -> Vec<Finding> {
    let mut findings = vec![database(seen)];
    findings.extend(schema(seen));
    findings.extend(region(seen));
    findings.extend([events(seen), gateway(seen), media(seen)]);
    findings
}

fn database(seen: &Checkup) -> Finding {
    let finding = finding(
        "spacebar database",
        "Every join is looked up in Spacebar's own tables; without them nobody gets in.",
    );
    match &seen.database {
        Ok(version) => finding.pass(format!("PostgreSQL {version}")),
        Err(error) => finding.fail(
            error,
            "psql \"$DATABASE\" -c 'select 1'    # with Spacebar's DATABASE, on this machine; then \
             write it into the file that spacebar.database_file names",
        ),
    }
}

fn schema(seen: &Checkup) -> Option<Finding> {
    let finding = finding(
        "spacebar schema",
        "Joins are read from and departures written to columns that Spacebar's migrations make.",
    );
    Some(match seen.schema.as_ref()? {
        Ok(missing) if missing.is_empty() => finding.pass("tables, columns and rights fit"),
        Ok(missing) => finding.fail(
            missing.join("; "),
            "npm run apply:migrations    # in Spacebar's directory; rights: GRANT SELECT, UPDATE ON \
             voice_states, SELECT, DELETE ON streams, SELECT, UPDATE, DELETE ON stream_sessions, \
             SELECT ON channels, guilds, config",
        ),
        Err(error) => finding.fail(error, "psql \"$DATABASE\" -c '\\d voice_states'"),
    })
}

fn region(seen: &Checkup) -> Option<Finding> {
    let finding = finding(
        "spacebar region",
        "Spacebar tells clients to connect to the endpoint of their guild's region.",
    );
    let endpoint = &seen.endpoint;
    let set = format!(
        "psql \"$DATABASE\" -c \"update config set value = '\\\"{endpoint}\\\"' where key = \
         'regions_available_0_endpoint'\"    # or regions.available[0].endpoint in the file that \
         Spacebar has as CONFIG_PATH; then restart Spacebar"
    );
    let regions = match seen.regions.as_ref()? {
        Ok(regions) => regions,
        Err(error) => {
            return Some(
                finding.fail(error, "name Spacebar's CONFIG_PATH in spacebar.config_file"),
            );
        }
    };
    if regions.is_empty() {
        let remedy = "name the file that Spacebar has as CONFIG_PATH in spacebar.config_file";
        return Some(finding.warn("no region in the config table", remedy));
    }
    let here: Vec<&str> =
        regions.iter().filter(|(_, at)| *at == endpoint.as_str()).map(|(id, _)| id).collect();
    // A scheme or a path breaks one half of the clients, a missing port the other.
    let odd = regions.iter().find(|(_, at)| {
        let port = at.rsplit_once(':').map_or("", |(_, port)| port);
        at.contains('/') || port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit())
    });
    Some(match (here.is_empty(), odd) {
        (true, _) => {
            let found = regions.iter().map(|(id, at)| format!("{id} points to {at}"));
            let found = found.collect::<Vec<_>>().join(", ");
            finding.fail(format!("{found}; none to {endpoint}"), set)
        }
        (false, Some((id, at))) => {
            finding.warn(format!("{id} points to {at}, which is no plain host:port"), set)
        }
        (false, None) if regions.endpoint(None) != Some(endpoint) => {
            finding.pass(format!("{} points here; the default region does not", here.join(", ")))
        }
        (false, None) => finding.pass(format!("{} points to {endpoint}", here.join(", "))),
    })
}

fn events(seen: &Checkup) -> Finding {
    let finding = finding(
        "spacebar events",
        "Moves and kicks are learnt from Spacebar's event bus, and everybody else's client learns \
         from it who has left.",
    );
    match &seen.events {
        ("poll" | "notify", Ok(found)) => finding.warn(
            format!("{found}; but clients are not told when somebody leaves"),
            "set EVENT_TRANSMISSION=unix and EVENT_SOCKET_PATH=/run/spacebar for Spacebar, and \
             spacebar.events=unix, spacebar.socket_path=/run/spacebar here",
        ),
        (_, Ok(found)) => finding.pass(found),
        ("unix", Err(error)) => finding.fail(
            error,
            "sudo usermod -aG spacebar stentor && sudo chmod g+rwxs /run/spacebar    # and UMask=0007 \
             in Spacebar's units; spacebar.socket_path must be its EVENT_SOCKET_PATH",
        ),
        ("notify", Err(error)) => finding.fail(
            error,
            "GRANT TRIGGER ON voice_states, streams TO the user of spacebar.database; GRANT CREATE \
             ON SCHEMA public",
        ),
        (_, Err(error)) => finding.fail(
            error,
            "sudo rabbitmqctl list_users    # spacebar.rabbitmq_file must hold Spacebar's \
             rabbitmq.host",
        ),
    }
}

fn gateway(seen: &Checkup) -> Finding {
    let finding = finding(
        "public gateway",
        "Clients connect to gateway.public_endpoint, and only to a certificate they trust.",
    );
    match &seen.gateway {
        Ok(found) => finding.pass(found),
        Err(error) if error.contains("certificate") => finding.fail(
            error,
            "sudo openssl x509 -noout -subject -issuer -dates -in /etc/stentor/fullchain.pem    # \
             must name the host of gateway.public_endpoint, be whole (with its intermediate), in \
             date and by an authority that clients know",
        ),
        Err(error) => finding.warn(
            error,
            "sudo systemctl start stentor && sudo ss -ltnp | grep stentor    # and open the port in \
             the firewall; this was tried from this machine, where some routers do not lead back",
        ),
    }
}

fn media(seen: &Checkup) -> Finding {
    let finding = finding(
        "public media",
        "Voice goes over UDP to media.public_ip, one port for each shard from \
         media.public_base_port on.",
    );
    match &seen.media {
        Ok(found) => finding.pass(found),
        Err(error) => {
            let port = seen.media_address.port();
            finding.warn(
                error,
                format!(
                    "sudo ufw allow {port}:{}/udp    # or what your firewall is; this was tried \
                     from this machine, where some routers do not lead back",
                    port.saturating_add(15)
                ),
            )
        }
    }
}

#[cfg(test)]
#[path = "spacebar_tests.rs"]
mod tests;
