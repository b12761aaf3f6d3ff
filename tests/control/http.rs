//! Answers and event streams as a client of the control API reads them.

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpStream,
};

use serde_json::Value;

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn read(mut socket: TcpStream) -> Self {
        let mut bytes = Vec::new();
        // A reset after the answer loses nothing of it.
        let _ = socket.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Self { status: status.unwrap_or(0), head: head.to_lowercase(), body: body.to_owned() }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// Status and error code, after checking the shape of errors.
    pub fn error(&self) -> (u16, String) {
        let json = self.json();
        assert!(json["error"]["message"].is_string(), "{json}");
        assert_eq!(json.as_object().unwrap().len(), 1);
        (self.status, json["error"]["code"].as_str().unwrap().to_owned())
    }
}

pub struct EventStream {
    pub status: u16,
    pub lines: BufReader<TcpStream>,
}

#[derive(Debug)]
pub struct StreamedEvent {
    pub id: Option<u64>,
    pub name: Option<String>,
    pub data: Value,
}

impl EventStream {
    /// The next event; `None` at the end of the stream.
    pub fn next(&mut self) -> Option<StreamedEvent> {
        let mut event = StreamedEvent { id: None, name: None, data: Value::Null };
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // Lines of the chunked encoding fit none of these.
            match line.trim_end().split_once(": ") {
                Some(("id", id)) => event.id = Some(id.parse().unwrap()),
                Some(("event", name)) => event.name = Some(name.to_owned()),
                Some(("data", data)) => event.data = serde_json::from_str(data).unwrap(),
                _ if !event.data.is_null() => return Some(event),
                _ => {}
            }
        }
    }

    pub fn types(&mut self, count: usize) -> Vec<String> {
        let mut next = || self.next().expect("the stream goes on").data["type"].clone();
        (0..count).map(|_| next().as_str().unwrap().to_owned()).collect()
    }
}
