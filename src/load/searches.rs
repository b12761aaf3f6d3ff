//! IP discovery from the client's side (protocol.md §2.1): whose address is sought, when to ask
//! again, who waits for it. Sans-IO; the media thread sends and receives.

use std::{
    net::{IpAddr, SocketAddr},
    str,
};

use tokio::sync::oneshot;

use crate::{id::Ssrc, rtp::discovery::DISCOVERY_BYTES};

/// The request is sent again after this long, and so many times in all: a lost one would be waited
/// for in vain.
const AGAIN_NS: u64 = 500_000_000;
const TRIES: u32 = 10;

/// Type and length of a request, and of a response.
const REQUEST: [u8; 4] = [0, 1, 0, 70];
const RESPONSE: [u8; 4] = [0, 2, 0, 70];

/// All searches that have not come to their end.
#[derive(Debug, Default)]
pub struct Searches(Vec<Search>);

#[derive(Debug)]
struct Search {
    client: u32,
    ssrc: Ssrc,
    server: SocketAddr,
    found: oneshot::Sender<SocketAddr>,
    again_at_ns: u64,
    tries: u32,
}

impl Searches {
    /// Begins one. `found` is dropped if it comes to nothing.
    pub fn begin(
        &mut self,
        client: u32,
        ssrc: Ssrc,
        server: SocketAddr,
        found: oneshot::Sender<SocketAddr>,
    ) {
        self.0.push(Search { client, ssrc, server, found, again_at_ns: 0, tries: 0 });
    }

    /// Gives every request that is due to `send`: from which client, to whom, its bytes. What it
    /// says no to is due again at once.
    pub fn ask(
        &mut self,
        now_ns: u64,
        mut send: impl FnMut(u32, SocketAddr, &[u8; DISCOVERY_BYTES]) -> bool,
    ) {
        self.0.retain_mut(|search| {
            if search.again_at_ns > now_ns {
                return true;
            }
            if search.found.is_closed() || search.tries == TRIES {
                return false;
            }
            let mut request = [0; DISCOVERY_BYTES];
            request[..4].copy_from_slice(&REQUEST);
            request[4..8].copy_from_slice(&search.ssrc.0.to_be_bytes());
            if send(search.client, search.server, &request) {
                search.again_at_ns = now_ns + AGAIN_NS;
                search.tries += 1;
            }
            true
        });
    }

    /// Takes a client's datagram if it is a response: whoever waits gets the address.
    pub fn answered(&mut self, client: u32, datagram: &[u8]) -> bool {
        let Ok(response) = <&[u8; DISCOVERY_BYTES]>::try_from(datagram) else { return false };
        if response[..4] != RESPONSE {
            return false;
        }
        let ssrc = Ssrc(u32::from_be_bytes([response[4], response[5], response[6], response[7]]));
        let wanted = |search: &Search| search.client == client && search.ssrc == ssrc;
        let Some(place) = self.0.iter().position(wanted) else { return true };
        let text = response[8..72].split(|byte| *byte == 0).next().unwrap_or_default();
        let address: Option<IpAddr> = str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        let Some(address) = address else { return true };
        let port = u16::from_be_bytes([response[72], response[73]]);
        // Whoever waited may have given up.
        let _ = self.0.swap_remove(place).found.send(SocketAddr::new(address, port));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtp::discovery::{parse_request, write_response};

    fn server() -> SocketAddr {
        "127.0.0.1:50000".parse().unwrap()
    }

    #[test]
    fn an_answer_reaches_who_waits_for_it() {
        let mut searches = Searches::default();
        let (found, mut answer) = oneshot::channel();
        searches.begin(3, Ssrc(7), server(), found);
        let mut asked = Vec::new();
        searches.ask(1, |client, to, request| {
            asked.push((client, to, parse_request(request)));
            true
        });
        assert_eq!(asked, [(3, server(), Some(Ssrc(7)))]);
        let (own, mut response) = ("127.16.0.4:4000".parse().unwrap(), [0; DISCOVERY_BYTES]);
        write_response(Ssrc(7), own, &mut response);
        assert!(!searches.answered(3, &response[1..]), "another length is no response");
        assert!(searches.answered(4, &response), "not this client's");
        assert!(answer.try_recv().is_err());
        assert!(searches.answered(3, &response));
        assert_eq!(answer.try_recv(), Ok(own));
        searches.ask(u64::MAX, |_, _, _| panic!("nothing is sought any more"));
    }

    #[test]
    fn a_request_is_repeated_and_then_given_up() {
        let mut searches = Searches::default();
        let (found, mut answer) = oneshot::channel();
        searches.begin(0, Ssrc(7), server(), found);
        let (mut sent, mut now_ns) = (0, 0);
        searches.ask(now_ns, |_, _, _| false);
        for _ in 0..2 * TRIES {
            searches.ask(now_ns, |_, _, _| {
                sent += 1;
                true
            });
            searches.ask(now_ns + AGAIN_NS - 1, |_, _, _| panic!("too soon"));
            now_ns += AGAIN_NS;
            if sent == TRIES {
                break;
            }
        }
        assert_eq!(sent, TRIES);
        assert_eq!(answer.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        searches.ask(now_ns, |_, _, _| panic!("given up"));
        assert_eq!(answer.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
