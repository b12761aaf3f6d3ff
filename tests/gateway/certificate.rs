//! The certificate a running server shows, and how it gets another.

use std::fs;

use crate::support::{
    gateway::{Door, Gateway},
    server::Server,
    wait_until,
};

#[test]
fn a_new_certificate_is_shown_after_a_hangup_and_a_broken_one_is_not() {
    let server = Server::start();
    let before = fs::read(server.certificate()).unwrap();
    let mut talking = Gateway::open(&server, Door::tls(8));
    talking.expect(8);

    let state = server.certificate().parent().unwrap().to_owned();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    fs::write(state.join("gateway.crt"), made.cert.pem()).unwrap();
    let shows_new = || Gateway::try_open(&server, server.gateway(), Door::tls(8)).is_ok();
    // The key is not the certificate's: the old ones stay in use.
    server.hang_up();
    wait_until("the complaint", || server.log().contains("the old certificate stays in use"));
    assert!(!shows_new());
    fs::write(state.join("gateway.key"), made.signing_key.serialize_pem()).unwrap();
    server.hang_up();
    wait_until("the new certificate is shown", shows_new);
    talking.drain();
    assert_ne!(fs::read(server.certificate()).unwrap(), before);
}
