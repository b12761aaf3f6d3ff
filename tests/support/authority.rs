//! A certificate authority of the tests' own, for foreign servers that speak TLS. Its certificates
//! are good for `localhost` and for no other name, not even 127.0.0.1.

use std::{fs, path::PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use tempfile::TempDir;

use super::service;

/// Files that a server and its clients are given.
pub struct Authority {
    directory: TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("random bytes");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, "an authority of the tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root_key = key();
        let root = params.self_signed(&root_key).expect("a fresh key signs");
        let issuer = Issuer::new(params, root_key);
        let leaf_key = key();
        let leaf = CertificateParams::new(vec!["localhost".to_owned()]).expect("a plain name");
        let leaf = leaf.signed_by(&leaf_key, &issuer).expect("the authority signs");

        let authority = Self { directory: service::directory() };
        for (name, text) in [
            ("ca.pem", root.pem()),
            ("server.pem", leaf.pem()),
            ("server.key", leaf_key.serialize_pem()),
        ] {
            let path = authority.path(name);
            fs::write(&path, text).expect("it is ours");
            service::give_away(&path);
        }
        authority
    }

    /// What clients are to trust.
    pub fn root(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// The server's certificate and key.
    pub fn server(&self) -> (PathBuf, PathBuf) {
        (self.path("server.pem"), self.path("server.key"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}
