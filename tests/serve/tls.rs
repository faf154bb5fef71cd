//! The server with a certificate, made for the test, and a client that believes only whom the test says.

use super::operations::Logged;
use super::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::net::TcpStream;
use std::sync::Arc;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// An authority, and files that prove that it knows a server by way of another one.
struct Proof {
    root: CertificateDer<'static>,
    certificates: String,
    key: String,
}

fn proof() -> Proof {
    let params = |name: &str, ca: bool| {
        let mut params = CertificateParams::new(vec!["localhost".to_string()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        if ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params
    };
    let [root_key, middle_key, key] = [(); 3].map(|()| KeyPair::generate().unwrap());
    let root = params("root", true).self_signed(&root_key).unwrap();
    let issuer = Issuer::new(params("root", true), root_key);
    let middle = params("middle", true).signed_by(&middle_key, &issuer).unwrap();
    let issuer = Issuer::new(params("middle", true), middle_key);
    let leaf = params("leaf", false).signed_by(&key, &issuer).unwrap();
    Proof { root: root.der().clone(), certificates: leaf.pem() + &middle.pem(), key: key.serialize_pem() }
}

/// A connection to who has a certificate of this authority.
fn connect(server: &Server, root: &CertificateDer<'static>) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), server.connect())
}

fn ask(server: &Server, root: &CertificateDer<'static>, method: &str, path: &str, body: &str) -> Response {
    let mut stream = connect(server, root);
    stream.write_all(http::request(method, path, &[], body).as_bytes()).unwrap();
    Response::read(stream)
}

/// Whether a client that believes an authority gets an answer.
fn believed(server: &Server, root: &CertificateDer<'static>) -> bool {
    let mut stream = connect(server, root);
    stream.write_all(http::request("GET", "/health", &[], "").as_bytes()).is_ok()
}

#[test]
fn answers_come_over_tls_and_who_speaks_otherwise_harms_nobody() {
    let Proof { root, certificates, key } = proof();
    let (certificate, key) = (temp_file("cert", &certificates), temp_file("key", &key));
    let logged = Logged::start(&["--tls-cert", &certificate, "--tls-key", &key]);
    let server = &logged.server;
    assert!(logged.text().contains(&format!("https://127.0.0.1:{} answers", server.port)), "{}", logged.text());
    // Those who do not speak TLS, and one who says nothing.
    let silent = server.connect();
    let mut plain = server.send("GET", "/health", &[], "");
    let mut told = vec![];
    // It may be closed with a part of it unread.
    let _ = plain.read_to_end(&mut told);
    assert!(!told.starts_with(b"HTTP"), "{told:?}");
    let mut body = json!({ "prompt": "ROMEO:", "max_tokens": 24, "temperature": 0 });
    let whole = ask(server, &root, "POST", COMPLETIONS, &body.to_string()).json();
    body["stream"] = json!(true);
    let streamed = ask(server, &root, "POST", COMPLETIONS, &body.to_string()).events();
    assert_eq!(joined(&streamed, 0).0, text(&whole));
    assert!(!text(&whole).is_empty());
    let mut stream = connect(server, &root);
    stream.write_all(http::request("GET", "/ready", &[], "").as_bytes()).unwrap();
    stream.read_exact(&mut [0; 12]).unwrap();
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert!(!believed(server, &proof().root), "another authority's");
    drop(silent);
}

#[test]
fn a_hangup_reads_the_certificate_again() {
    let (first, second) = (proof(), proof());
    let (certificate, key) = (temp_file("cert", &first.certificates), temp_file("key", &first.key));
    let logged = Logged::start(&["--tls-cert", &certificate, "--tls-key", &key]);
    let mut before = connect(&logged.server, &first.root);
    before.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    before.read_exact(&mut [0; 12]).unwrap();
    let reload = |certificates: &str, want: &str| {
        std::fs::write(&*certificate, certificates).unwrap();
        logged.server.signal(Signal::HUP);
        logged.wait(|text| text.contains(want).then_some(()));
    };
    // The first one's key is no key of the second one's certificate.
    reload(&second.certificates, "the certificate stays as it was");
    assert!(believed(&logged.server, &first.root));
    std::fs::write(&*key, &second.key).unwrap();
    reload(&second.certificates, "the certificate was read again");
    assert!(believed(&logged.server, &second.root) && !believed(&logged.server, &first.root));
    // Who was there already goes on.
    before.write_all(http::request("GET", "/health", &[], "").as_bytes()).unwrap();
    let mut rest = String::new();
    before.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("{\"status\":\"ok\"}"), "{rest}");
}

#[test]
fn files_that_are_no_certificate_and_its_key_are_refused_by_name() {
    let Proof { certificates, key, .. } = proof();
    let broken = certificates.replace("END CERT", "END DIRT");
    // openssl's forms; what they hold is not looked at.
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let older = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n\
        -----END RSA PRIVATE KEY-----\n";
    let no_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (certificate, secret, want) in [
        (key.as_str(), key.as_str(), "cert has no certificate: PEM is needed"),
        ("", &key, "cert has no certificate"),
        (&broken, &key, "cert: a part of it in PEM form is damaged"),
        (no_der, &key, "cannot be used with"),
        (&certificates, "", "key has no key: PEM is needed"),
        (&certificates, &certificates, "key has no key"),
        (&certificates, encrypted, "key: the key is encrypted"),
        (&certificates, older, "key: the key is encrypted"),
        (&certificates, &proof().key, "key is not the key of"),
    ] {
        let (certificate, secret) = (temp_file("cert", certificate), temp_file("key", secret));
        let o = run(&["serve", "-P", "0", "--tls-cert", &certificate, "--tls-key", &secret]);
        assert_eq!((o.status.code(), err(&o).contains(want)), (Some(1), true), "{want}: {}", err(&o));
    }
    for (args, want) in [
        (&["--tls-cert", "/none/cert", "--tls-key", "/none/key"][..], "/none/cert: cannot read the certificate"),
        (&["--tls-cert", "/none/cert"], "give --tls-key FILE too"),
        (&["--tls-key", "/none/key"], "give --tls-cert FILE too"),
    ] {
        let o = run(&[&["serve", "-P", "0"], args].concat());
        assert_eq!((o.status.code(), err(&o).contains(want)), (Some(1), true), "{want}: {}", err(&o));
    }
}
