//! Reads a stream of server-sent events, as the WHATWG HTML standard tells it (section 9.2.6). Pure.

use std::time::Duration;

/// A block of the stream that a client acts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The last `id` the stream gave, in this block or before.
    pub last_event_id: String,
    /// The type; `message` if none was given.
    pub event_type: String,
    /// The data, its lines joined by LF.
    pub data: String,
}

/// Takes the bytes of a stream as they come and gives its messages.
#[derive(Debug, Default)]
pub struct SseParser {
    line: Vec<u8>,
    /// The last byte was a CR: an LF that follows belongs to it.
    after_cr: bool,
    /// Bytes of a byte order mark seen at the very start; `None` behind it.
    started: bool,
    data: String,
    event_type: String,
    id_buffer: String,
    last_event_id: String,
    retry: Option<Duration>,
}

impl SseParser {
    /// Takes some bytes; calls `on_message` for each message they complete.
    pub fn feed(&mut self, bytes: &[u8], mut on_message: impl FnMut(Message)) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.after_cr {
                self.after_cr = false;
                rest = rest.strip_prefix(b"\n").unwrap_or(rest);
                continue;
            }
            let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
                self.line.extend_from_slice(rest);
                return;
            };
            self.line.extend_from_slice(&rest[..end]);
            self.after_cr = rest[end] == b'\r';
            rest = &rest[end + 1..];
            let line = std::mem::take(&mut self.line);
            if let Some(message) = self.take_line(&line) {
                on_message(message);
            }
        }
    }

    /// The id of the last complete block that had one; what a client sends as `Last-Event-ID`. Empty if none had.
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// How soon the hub asked to be asked again, if it did.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    fn take_line(&mut self, line: &[u8]) -> Option<Message> {
        let line = if self.started {
            line
        } else {
            line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line)
        };
        self.started = true;
        let line = String::from_utf8_lossy(line);
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event_type),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id_buffer),
            "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry = value.parse().ok().map(Duration::from_millis);
            }
            _ => (), // A comment, or a field nobody knows.
        }
        None
    }

    fn dispatch(&mut self) -> Option<Message> {
        self.last_event_id.clone_from(&self.id_buffer);
        let event_type = std::mem::take(&mut self.event_type);
        let mut data = std::mem::take(&mut self.data);
        data.pop()?; // The LF behind the last line; without data there is no message.
        Some(Message {
            last_event_id: self.last_event_id.clone(),
            event_type: if event_type.is_empty() {
                "message".into()
            } else {
                event_type
            },
            data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(chunks: &[&str]) -> (Vec<(String, String, String)>, SseParser) {
        let mut parser = SseParser::default();
        let mut messages = Vec::new();
        for chunk in chunks {
            parser.feed(chunk.as_bytes(), |message| {
                messages.push((message.last_event_id, message.event_type, message.data));
            });
        }
        (messages, parser)
    }

    fn message(id: &str, event_type: &str, data: &str) -> (String, String, String) {
        (id.into(), event_type.into(), data.into())
    }

    /// The examples of the standard.
    #[test]
    fn reads_the_examples_of_the_standard() {
        let (messages, _) = parse(&["data: YHOO\ndata: +2\ndata: 10\n\n"]);
        assert_eq!(messages, [message("", "message", "YHOO\n+2\n10")]);

        let (messages, parser) = parse(&[
            ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
        ]);
        assert_eq!(
            messages,
            [
                message("1", "message", "first event"),
                message("", "message", "second event"),
                message("", "message", " third event")
            ]
        );
        assert_eq!(parser.last_event_id(), "");

        let (messages, _) = parse(&["data\n\ndata\ndata\n\ndata:"]);
        assert_eq!(
            messages,
            [message("", "message", ""), message("", "message", "\n")]
        );

        let (messages, _) = parse(&["data:test\n\ndata: test\n\n"]);
        assert_eq!(
            messages,
            [
                message("", "message", "test"),
                message("", "message", "test")
            ]
        );
    }

    #[test]
    fn any_line_break_ends_a_line_also_between_chunks() {
        let (messages, _) = parse(&[
            "\u{feff}id: 1\r",
            "\nevent: x\rdata: a\r\n",
            "data: b\r",
            "\r",
            "data: c\n",
            "\n",
        ]);
        assert_eq!(
            messages,
            [message("1", "x", "a\nb"), message("1", "message", "c")]
        );
    }

    #[test]
    fn an_id_without_data_moves_the_cursor_and_half_a_block_does_not() {
        let (messages, parser) = parse(&["retry: 1500\nid: 7\n\nid: 8\ndata: x\n"]);
        assert!(messages.is_empty());
        assert_eq!(parser.last_event_id(), "7");
        assert_eq!(parser.retry(), Some(Duration::from_millis(1500)));
    }
}
