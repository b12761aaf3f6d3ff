//! The page to talk on as the gateway's port gives it, on any server: the same files, for visitors
//! who bring their grant in a link. It lets nobody in by itself, and so needs no secret and knows
//! nothing but its files. Writes whole HTTP answers, for `driver::wire` has no HTTP of its own.

use std::fmt::Write;

use super::page::{self, File};

/// What tells the page that there is no other way in than a link.
const DOOR: (&str, &str) = ("<html lang=\"en\">", "<html lang=\"en\" data-door=\"link\">");

/// The page's answers.
#[derive(Debug)]
pub struct LinkPage {
    /// Header lines that all answers have.
    headers: String,
    index: String,
}

impl LinkPage {
    /// The page of a gateway with this public endpoint. It connects to whatever name it was asked
    /// for under, so the endpoint is for browsers that do not take a WebSocket for the page's own.
    pub fn new(endpoint: &str) -> Self {
        let mut headers = String::new();
        for (name, value) in page::headers(&format!("wss://{endpoint}")) {
            let value = value.to_str().expect("the values are printable ASCII");
            let _ = write!(headers, "{name}: {value}\r\n");
        }
        let index = page::file("/").expect("the page has a first file").text;
        let index = index.replacen(DOOR.0, DOOR.1, 1);
        Self { headers, index }
    }

    /// Appends the answer to a GET of this path; `false`, and nothing, if it is none of the page's.
    pub fn answer(&self, path: &str, last: bool, out: &mut Vec<u8>) -> bool {
        let Some(File { media_type, text, .. }) = page::file(path) else { return false };
        let text = if path == "/" { &self.index } else { *text };
        let connection = if last { "close" } else { "keep-alive" };
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {media_type}\r\ncontent-length: {}\r\n\
             connection: {connection}\r\n{}\r\n",
            text.len(),
            self.headers,
        );
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(text.as_bytes());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_file_says_that_there_is_no_way_in_but_a_link() {
        assert_eq!(page::file("/").unwrap().text.matches(DOOR.0).count(), 1);
    }
}
