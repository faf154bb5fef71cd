//! Clients that take their time, against a server whose patience is short.

use super::*;
use crate::engine::{LoadOptions, demo};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};

const SHORT: Duration = Duration::from_millis(150);

/// Tells the server to end when it is dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Runs a server on a free port while `test` talks to it.
fn with_server(change: impl FnOnce(&mut Options), test: impl FnOnce(SocketAddr)) {
    let mut options = Options {
        host: "127.0.0.1".into(),
        port: 0,
        keys: None,
        metrics: None,
        tls: None,
        insecure: false,
        aliases: vec![],
        sampling: Params::default(),
        max_tokens: None,
        most: 64,
        timeout: None,
        grace: Duration::ZERO,
        patience: Patience { head: SHORT, body: SHORT, deaf: SHORT },
    };
    change(&mut options);
    let server = Server::bind(options).unwrap();
    let address = server.address();
    let (ready, end) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let options = LoadOptions { max_sequences: 32, ..LoadOptions::default() };
        let load = move || Engine::load(&demo()?, &options, &mut |_, _| ());
        let (ready, end) = (&ready, &end);
        let thread = scope.spawn(move || {
            let now = |_: &Engine| {
                ready.store(true, Ordering::SeqCst);
                Ok(())
            };
            server.run(load, now, || if end.load(Ordering::SeqCst) { Told::End } else { Told::Nothing })
        });
        while !ready.load(Ordering::SeqCst) {
            assert!(!thread.is_finished(), "it ended before it was ready");
            std::thread::yield_now();
        }
        // Also when the test fails: or it would wait for the server for ever.
        let ending = End(end);
        test(address);
        drop(ending);
        thread.join().unwrap().unwrap();
    });
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    // A watchdog, longer than any patience.
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// What comes until the server closes the connection.
fn rest(mut stream: TcpStream) -> String {
    let mut bytes = vec![];
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "it is not closed: {e}"),
    }
    String::from_utf8(bytes).unwrap()
}

fn ask(address: SocketAddr, body: &str) -> TcpStream {
    let mut stream = connect(address);
    let head =
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n";
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    stream
}

#[test]
fn a_head_or_body_that_does_not_come_ends_its_connection_and_no_other() {
    with_server(
        |_| (),
        |address| {
            let mut slow: Vec<TcpStream> = (0..50).map(|_| connect(address)).collect();
            slow.iter_mut().for_each(|s| s.write_all(b"GET /health HTTP/1.1\r\nX-Slow: ").unwrap());
            let mut late = connect(address);
            late.write_all(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{").unwrap();
            let good = rest(ask(address, r#"{"prompt": "ROMEO:", "max_tokens": 3}"#));
            assert!(good.starts_with("HTTP/1.1 200"), "{good}");
            assert!(rest(late).starts_with("HTTP/1.1 408"));
            for s in slow {
                let told = rest(s);
                assert!(told.is_empty() || told.starts_with("HTTP/1.1 408"), "{told}");
            }
        },
    );
}

#[test]
fn who_does_not_begin_tls_is_not_waited_for() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_string()]).unwrap();
    let file = |name: &str, text: String| {
        let path = std::env::temp_dir().join(format!("air-tls-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
    };
    let certificate = file("cert", made.cert.pem());
    let key = file("key", made.signing_key.serialize_pem());
    let files = TlsFiles { certificate: certificate.clone(), key: key.clone() };
    with_server(
        |options| options.tls = Some(files),
        |address| {
            let silent: Vec<TcpStream> = (0..20).map(|_| connect(address)).collect();
            let mut half = connect(address);
            // The beginning of a greeting that says that more comes.
            half.write_all(&[22, 3, 1, 1, 0, 1]).unwrap();
            for stream in silent.into_iter().chain([half]) {
                assert_eq!(rest(stream), "");
            }
        },
    );
    [certificate, key].iter().for_each(|path| std::fs::remove_file(path).unwrap());
}

#[test]
fn who_does_not_read_loses_the_connection_and_its_place() {
    // Each of them would be given megabytes, more than the system holds for a connection.
    let body = format!(
        r#"{{"prompt": "a", "max_tokens": 400, "n": 60, "stream": true, "logprobs": 20, "logit_bias": {{"0": -100}}, "seed": {}}}"#,
        7
    );
    with_server(
        // A busy machine may take longer than that to send a request.
        |options| (options.most, options.patience) = (60, Patience { deaf: SHORT, ..Patience::default() }),
        |address| {
            let deaf = ask(address, &body);
            let begun = Instant::now();
            loop {
                // It has all the places; when it is cut off, others have them.
                let answer = rest(ask(address, r#"{"prompt": ["a", "b"], "max_tokens": 1}"#));
                if answer.starts_with("HTTP/1.1 200") {
                    break;
                }
                assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
                assert!(begun.elapsed() < Duration::from_secs(60), "it holds its places");
                std::thread::sleep(SHORT);
            }
            assert!(!rest(deaf).contains("[DONE]"), "it was given everything, so this test shows nothing");
        },
    );
}
