//! What others send and when a server is told to end changes nobody's answer: a short form of the stress of
//! `benches/serve_load`.

use super::*;
use crate::bad_requests::{KINDS, Then, bad};

#[test]
fn bad_requests_change_nobodys_tokens() {
    let mut server = Server::start(&["--max-num-seqs", "16", "--max-queue", "256"]);
    let body = |i: usize, stream: bool| json!({ "prompt": format!("Scene {i}."), "max_tokens": 24, "seed": i, "temperature": 0.9, "stream": stream });
    let alone: Vec<String> = (0..12).map(|i| text(&server.post(COMPLETIONS, &body(i, false)).json())).collect();
    std::thread::scope(|scope| {
        let (server, alone, body) = (&server, &alone, &body);
        for attacker in 0..3 {
            // Each kind in two forms.
            scope.spawn(move || (attacker..2 * KINDS).step_by(3).for_each(|i| attack(server, i)));
        }
        for (i, want) in alone.iter().enumerate() {
            scope.spawn(move || {
                for _ in 0..3 {
                    let have = server.post(COMPLETIONS, &body(i, true));
                    assert_eq!(&joined(&have.events(), 0).0, want, "stream {i}");
                }
            });
        }
    });
    assert!(server.child.try_wait().unwrap().is_none(), "it lives");
    let metrics = server.get("/metrics").body;
    assert!(!metrics.contains("status=\"5"), "{metrics}");
}

/// Sends a bad request, and looks what is told.
fn attack(server: &Server, i: usize) {
    let bad = bad(i);
    let mut connection = server.connect();
    // Who is refused in the middle may be told so, or not.
    let _ = connection.write_all(&bad.bytes);
    match bad.then {
        Then::Leave(n) => drop(connection.take(n as u64).read_to_end(&mut vec![])),
        Then::Read(may) => {
            let mut answer = vec![];
            if connection.read_to_end(&mut answer).is_ok() && !answer.is_empty() {
                let status = Response::read(&answer[..]).status;
                assert!(may.contains(&status), "{} {i}: {status}", bad.what);
            }
        }
    }
}

/// A queue that is too short drops them, and they would try again after a second.
#[test]
fn a_thousand_connections_may_come_at_once() {
    let server = Server::start(&[]);
    server.signal(Signal::STOP);
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").ok().and_then(|n| n.trim().parse().ok());
    let at = (std::net::Ipv4Addr::LOCALHOST, server.port).into();
    // It accepts none of them now; the time is a watchdog.
    let connect = |_| std::net::TcpStream::connect_timeout(&at, Duration::from_secs(30)).expect("there is room");
    let all: Vec<_> = (0..most.unwrap_or(128).min(600)).map(connect).collect();
    server.signal(Signal::CONT);
    drop(all);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn whoever_was_promised_an_answer_hears_its_end_whenever_the_server_is_told_to_end() {
    for moment in [0, 20, 90, 250] {
        let mut server = Server::start(&["--device", "fake:2", "--max-num-seqs", "4", "--grace", "0"]);
        let body = json!({ "prompt": "ROMEO:", "max_tokens": 60, "temperature": 0, "stream": true }).to_string();
        let port = server.port;
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..6).map(|_| scope.spawn(|| until_it_is_gone(port, &body))).collect();
            // Any moment will do; some are in the middle of streams.
            std::thread::sleep(Duration::from_millis(moment));
            server.signal(Signal::TERM);
            assert!(server.child.wait().unwrap().success());
            clients.into_iter().for_each(|client| client.join().unwrap());
        });
    }
}

/// Asks for streams until nobody answers; each must have its end.
fn until_it_is_gone(port: u16, body: &str) {
    loop {
        let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else { return };
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut answer = vec![];
        let sent = stream.write_all(http::request("POST", COMPLETIONS, &[], body).as_bytes());
        let read = sent.and_then(|()| stream.read_to_end(&mut answer));
        if !answer.starts_with(b"HTTP/1.1 ") {
            return;
        }
        read.expect("an answer that has begun comes to its end");
        let response = Response::read(&answer[..]);
        let ended = response.body.contains("data: [DONE]") || response.body.contains("\"code\":\"shutting_down\"");
        assert!(ended && matches!(response.status, 200 | 503), "{}", response.body);
    }
}
