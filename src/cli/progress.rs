//! A line on the terminal that shows the progress of a long command. By hand: a crate for it is larger than these lines.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

/// How often the line is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// Characters of the bar.
const BAR_WIDTH: usize = 30;

/// The line. Nothing is drawn where standard error is not a terminal.
#[derive(Debug)]
pub(super) struct Progress {
    total: u64,
    drawn: Option<Instant>,
}

impl Progress {
    /// `total`: how far there is to go, in any unit.
    pub(super) fn new(total: u64) -> Self {
        Self { total, drawn: None }
    }

    /// Draws how much of the total is done, and the number of events.
    pub(super) fn draw(&mut self, done: u64, events: u64) {
        let is_due = self.drawn.is_none_or(|drawn| drawn.elapsed() >= DRAW_EVERY);
        if is_due && io::stderr().is_terminal() {
            self.drawn = Some(Instant::now());
            _ = write!(io::stderr(), "\r{}", bar(done, self.total, events));
        }
    }

    /// Ends the line.
    pub(super) fn end(&mut self, events: u64) {
        if self.drawn.take().is_some() {
            _ = writeln!(io::stderr(), "\r{}", bar(self.total, self.total, events));
        }
    }
}

fn bar(done: u64, total: u64, events: u64) -> String {
    let percent = (done * 100).checked_div(total).unwrap_or(100).min(100);
    let width = usize::try_from(percent).expect("at most 100") * BAR_WIDTH / 100;
    format!(
        "[{}{}] {percent:3} %  {}",
        "=".repeat(width),
        " ".repeat(BAR_WIDTH - width),
        super::counted(events)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_grows_with_what_is_done() {
        assert_eq!(
            bar(50, 100, 7),
            "[===============               ]  50 %  7 events"
        );
        assert!(bar(0, 0, 0).contains("100 %"));
        assert!(bar(200, 100, 0).contains("100 %"));
    }
}
