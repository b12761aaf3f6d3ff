//! Changes as the database itself tells of them, for a Spacebar whose processes share no bus:
//! triggers on its tables notify, and one connection listens (protocol.md §6.5). A notification
//! says whose row to read, not what is in it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde::Deserialize;
use tokio_postgres::AsyncMessage;
use tracing::{info, warn};

use super::{
    database::{Database, DatabaseError},
    errands::Desk,
    vigil,
};
use crate::id::UserId;

/// Pause before the next attempt to listen.
const RETRY: Duration = Duration::from_secs(1);

/// Function and triggers. Made anew at every start, since a table made anew has lost them; nothing
/// else of Spacebar's is touched. TRUNCATE, which its gateway does when it starts, has no rows.
const TRIGGERS: &str = "
BEGIN;
SELECT pg_advisory_xact_lock(8349721);
CREATE OR REPLACE FUNCTION stentor_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'TRUNCATE' OR TG_TABLE_NAME <> 'voice_states' THEN
    PERFORM pg_notify('stentor', '{}');
  ELSE
    IF TG_OP <> 'INSERT' THEN
      PERFORM pg_notify('stentor', json_build_object('user_id', OLD.user_id::text)::text);
    END IF;
    IF TG_OP = 'INSERT' OR TG_OP = 'UPDATE' AND NEW.user_id IS DISTINCT FROM OLD.user_id THEN
      PERFORM pg_notify('stentor', json_build_object('user_id', NEW.user_id::text)::text);
    END IF;
  END IF;
  RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS stentor_rows ON voice_states;
CREATE TRIGGER stentor_rows AFTER INSERT OR UPDATE OR DELETE ON voice_states
  FOR EACH ROW EXECUTE FUNCTION stentor_notify();
DROP TRIGGER IF EXISTS stentor_all ON voice_states;
CREATE TRIGGER stentor_all AFTER TRUNCATE ON voice_states
  FOR EACH STATEMENT EXECUTE FUNCTION stentor_notify();
DROP TRIGGER IF EXISTS stentor_rows ON streams;
CREATE TRIGGER stentor_rows AFTER DELETE OR TRUNCATE ON streams
  FOR EACH STATEMENT EXECUTE FUNCTION stentor_notify();
COMMIT;";

/// Sets the triggers up.
pub(super) async fn install(database: &Database) -> Result<(), DatabaseError> {
    database.execute(TRIGGERS).await
}

/// Listens as long as it is polled.
pub(super) async fn listen(desk: &Arc<Desk>) {
    let mut has_complained = false;
    loop {
        match listen_once(desk, &mut has_complained).await {
            Ok(()) => warn!("the database's notifications have ended; listening anew"),
            Err(error) if !has_complained => {
                has_complained = true;
                warn!(%error, "cannot listen to the database's notifications");
            }
            Err(_) => {}
        }
        desk.tally().watching.store(false, Ordering::Relaxed);
        tokio::time::sleep(RETRY).await;
    }
}

async fn listen_once(desk: &Arc<Desk>, has_complained: &mut bool) -> Result<(), DatabaseError> {
    install(desk.database()).await?;
    let (client, mut listening) = desk.database().connect().await?;
    let ask = client.batch_execute("LISTEN stentor");
    let mut ask = std::pin::pin!(ask);
    let mut is_asking = true;
    loop {
        tokio::select! {
            asked = &mut ask, if is_asking => {
                asked.map_err(|error| DatabaseError::Query(error.to_string()))?;
                is_asking = false;
                *has_complained = false;
                info!("listening to the database's notifications");
                desk.tally().watching.store(true, Ordering::Relaxed);
                // What has happened before is not notified.
                vigil::look_again(desk);
            }
            message = listening.next() => match message {
                Some(Ok(AsyncMessage::Notification(notification))) => {
                    match user(notification.payload()) {
                        Some(user) => vigil::look_at(desk, user),
                        None => vigil::look_again(desk),
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            }
        }
    }
}

fn user(payload: &str) -> Option<UserId> {
    #[derive(Deserialize)]
    struct Payload {
        user_id: UserId,
    }
    serde_json::from_str::<Payload>(payload).ok().map(|payload| payload.user_id)
}
