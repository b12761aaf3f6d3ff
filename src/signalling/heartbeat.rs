//! Heartbeats, op 3 from the client (protocol.md §1.4): both shapes, kept so that the answer can
//! echo them byte for byte. When to answer is the connection's business.

use serde::{Deserialize, Serialize, Serializer, ser::SerializeStruct};
use serde_json::value::RawValue;

use super::{
    Refusal,
    envelope::{Payload, Whole},
};
use crate::limits::HEARTBEAT_NONCE_BYTES_MAX;

/// op 3 from a client. Serialised it is the `d` of the acknowledgement: the shape it came in.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    /// The number itself, or the object's `t`, as the client wrote it.
    pub nonce: Box<RawValue>,
    /// Last numbered message received (v8+); −1 or 0 for none.
    pub seq_ack: Option<i64>,
    /// Whether `d` was an object rather than a number.
    pub object: bool,
}

impl Heartbeat {
    pub(super) fn parse(payload: Payload<'_>) -> Result<Self, Refusal> {
        const WRONG: &str = "Heartbeat is neither a number nor {t, seq_ack}";

        #[derive(Deserialize)]
        struct Wire<'a> {
            #[serde(borrow)]
            t: &'a RawValue,
            seq_ack: Option<Whole>,
        }

        let object = payload.0.starts_with('{');
        let (nonce, seq_ack) = if object {
            let wire: Wire<'_> = payload.object(WRONG)?;
            (wire.t.get(), wire.seq_ack.map(|seq| seq.0))
        } else {
            (payload.0, None)
        };
        if nonce.len() > HEARTBEAT_NONCE_BYTES_MAX || serde_json::from_str::<Whole>(nonce).is_err()
        {
            return Err(Refusal::decode(WRONG));
        }
        let nonce = RawValue::from_string(nonce.to_owned()).map_err(|_| Refusal::decode(WRONG))?;
        Ok(Self { nonce, seq_ack, object })
    }
}

impl PartialEq for Heartbeat {
    fn eq(&self, other: &Self) -> bool {
        (self.nonce.get(), self.seq_ack, self.object)
            == (other.nonce.get(), other.seq_ack, other.object)
    }
}

impl Eq for Heartbeat {}

impl Serialize for Heartbeat {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if !self.object {
            return self.nonce.serialize(to);
        }
        let mut object = to.serialize_struct("HeartbeatAck", 1)?;
        object.serialize_field("t", &self.nonce)?;
        object.end()
    }
}
