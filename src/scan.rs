//! Long scans let others work: each yields to the runtime, and those with a costly filter wait for each other. To make such a filter
//! is work of the same kind.
//!
//! On two processors one runtime thread serves everything, so what one scan takes all others wait for. A scan that yields
//! every few milliseconds is not noticed; a hundred of them that yield in turn would be. So of those that are costly only one
//! runs at a time, and it gives its turn away after a while.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::filter::{Filter, FilterTooLarge, Pattern, PatternText, Verdicts};

/// Time that a scan holds its runtime thread at the most.
///
/// Source: the contract, which allows 10 ms between two yields. A publish is woken four times on its way, and may wait for a scan each time.
const HOLD_MAX: Duration = Duration::from_millis(1);

/// Time after which a scan should end with what it has found so far.
const TURN_MAX: Duration = Duration::from_millis(50);

/// Bytes of patterns from which on filters are made one after the other: 30 µs of work, as much as the rest of a request takes.
const FILTER_COSTLY_BYTES: usize = 2000;

/// The [cost](Filter::cost) from which on work of another kind waits for its turn: a millisecond, at worst 6 ms.
const WORK_COSTLY: usize = 100_000;

/// Topics and types that a scan with a costly filter remembers: as many as the rows that are looked at in one go.
const REMEMBERED_NAMES: usize = 4096;

/// All scans of a log. Clones are one.
#[derive(Debug, Clone)]
pub struct Scans {
    scanning: Arc<Semaphore>,
    making: Arc<Semaphore>,
}

/// One scan.
#[derive(Debug)]
pub struct Scan {
    begun: Instant,
    resumed: Instant,
    turn: Option<OwnedSemaphorePermit>,
    verdicts: Verdicts,
}

impl Default for Scans {
    fn default() -> Self {
        Self {
            scanning: Arc::new(Semaphore::new(1)),
            making: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Scans {
    /// Begins a scan with `filter`; waits for its turn if that is costly. What else it needs, such as a connection to the
    /// file, is to be taken after this.
    pub async fn begin(&self, filter: &Filter) -> Scan {
        Scan::new(turn_of(&self.scanning, filter.is_costly()).await)
    }

    /// Begins work that tests names with many filters, and [costs](Filter::cost) this much in all; waits for its turn if that is much.
    pub async fn begin_work(&self, cost: usize) -> Scan {
        Scan::new(turn_of(&self.scanning, cost >= WORK_COSTLY).await)
    }

    /// Makes a filter; lets others work meanwhile, and waits for its turn if it is a costly one.
    ///
    /// A thousand requests that come at once would else be served one after the other before anything that comes behind them.
    pub async fn make_filter(
        &self,
        topics: &[PatternText],
        types: &[PatternText],
    ) -> Result<Filter, FilterTooLarge> {
        // Looks at no text: all who come at once do this before anybody has a turn.
        let bytes = topics.iter().chain(types).map(PatternText::len_bytes);
        let is_costly = bytes.sum::<usize>() >= FILTER_COSTLY_BYTES;
        let mut making = Scan::new(turn_of(&self.making, is_costly).await);
        let mut made = [Vec::new(), Vec::new()];
        for (texts, patterns) in [topics, types].iter().zip(&mut made) {
            for text in *texts {
                patterns.push(Pattern::of(text));
                making.pause().await;
            }
        }
        let [topics, types] = made;
        Filter::new(topics, types)
    }
}

async fn turn_of(turns: &Arc<Semaphore>, is_costly: bool) -> Option<OwnedSemaphorePermit> {
    match is_costly {
        true => {
            let turn = turns.clone().acquire_owned().await;
            // Turns that are short and follow each other would be one long one: the runtime looks at sockets when nothing is left to
            // do, or when somebody yields.
            tokio::task::yield_now().await;
            Some(turn.expect("nobody closes it"))
        }
        false => None,
    }
}

impl Scan {
    fn new(turn: Option<OwnedSemaphorePermit>) -> Self {
        let now = Instant::now();
        Self {
            begun: now,
            resumed: now,
            turn,
            verdicts: Verdicts::new(REMEMBERED_NAMES),
        }
    }

    /// Whether `filter`, which the scan was begun with, matches an event of this topic and type.
    pub fn matches(&mut self, filter: &Filter, topic: &str, event_type: &str) -> bool {
        match self.turn {
            None => filter.matches_names(topic, event_type),
            Some(_) => self.verdicts.ask(filter, topic, event_type),
        }
    }

    /// Lets others work if it is time to. To be called after each event that was looked at.
    pub async fn pause(&mut self) {
        if self.resumed.elapsed() >= HOLD_MAX {
            tokio::task::yield_now().await;
            self.resumed = Instant::now();
        }
    }

    /// Whether the scan should end with what it has found so far, and go on as another one.
    pub fn is_over(&self) -> bool {
        self.turn.is_some() && self.begun.elapsed() >= TURN_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{longest_work, thread_cpu_time};

    /// Those who work on the same thread are let in every 10 ms of its work, however many filters are to be made, and however large.
    #[tokio::test]
    #[expect(clippy::print_stdout, reason = "the figures")]
    async fn others_work_while_filters_are_made() {
        let text = |n: usize| {
            let runs = (0..8).map(|run| format!("*{n}.{run}.{}", "abcdefghijklmnopqrstuvw"));
            PatternText::new(&runs.collect::<String>()).unwrap()
        };
        let scans = Scans::default();
        let making: Vec<_> = (0..100)
            .map(|own| {
                let (scans, topics) = (scans.clone(), (0..100).map(|n| text(own * 100 + n)));
                let topics: Vec<_> = topics.collect();
                tokio::spawn(async move { scans.make_filter(&topics, &[]).await.map(|_| ()) })
            })
            .collect();
        let begun = thread_cpu_time();
        let longest = longest_work(&making).await;
        let all = thread_cpu_time() - begun;
        println!(
            "100 filters were made in {all:?} of work; others were let in after {longest:?} at most"
        );
        for made in making {
            made.await.unwrap().unwrap();
        }
        assert!(longest < Duration::from_millis(10), "{longest:?}");
    }

    /// Each lets others in every millisecond; fifty that did so in turn would let nobody in for fifty.
    #[tokio::test]
    #[expect(clippy::print_stdout, reason = "the figures")]
    async fn others_work_while_many_scan_with_costly_filters() {
        let texts: Vec<_> = (0..90)
            .map(|n| PatternText::new(&format!("**a*a{n}**b*")).unwrap())
            .collect();
        let scans = Scans::default();
        let filter = Arc::new(scans.make_filter(&texts, &[]).await.unwrap());
        let scanning: Vec<_> = (0..50)
            .map(|_| {
                let (scans, filter) = (scans.clone(), filter.clone());
                tokio::spawn(async move {
                    let mut scan = scans.begin(&filter).await;
                    for n in 0..30 {
                        scan.matches(&filter, &format!("{n}{}", "a".repeat(250)), "t");
                        scan.pause().await;
                    }
                })
            })
            .collect();
        let longest = longest_work(&scanning).await;
        println!("others were let in after {longest:?} of work at most");
        assert!(longest < Duration::from_millis(20), "{longest:?}");
    }
}
