//! Turns of what is large: others wait for one piece of it, and not for as many as come.
//!
//! On two processors one thread serves everything, and threads beside it share the processors with it.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::process::processors_but_one;

/// All turns of a hub. Clones are one.
#[derive(Debug, Clone)]
pub struct Turns {
    here: Arc<Semaphore>,
    beside: Arc<Semaphore>,
}

/// As many threads beside the runtime's as would leave it a processor.
impl Default for Turns {
    fn default() -> Self {
        Self::new(processors_but_one())
    }
}

impl Turns {
    fn new(threads: usize) -> Self {
        Self {
            here: Arc::new(Semaphore::new(1)),
            beside: Arc::new(Semaphore::new(threads)),
        }
    }

    /// Waits for a turn to do something large on this thread: to read more of a body, or to look at a long query.
    ///
    /// Between two turns the runtime looks at all sockets, and does all else that is ready.
    pub async fn next(&self) {
        let turn = self.here.acquire().await;
        tokio::task::yield_now().await;
        drop(turn.expect("nobody closes it"));
    }

    /// Does work that takes milliseconds on another thread, and waits for it.
    ///
    /// When the future is dropped the work goes on to its end, and has its turn until then.
    pub async fn beside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let turn = self.beside.clone().acquire_owned().await;
        let working = tokio::task::spawn_blocking(move || {
            let _turn = turn.expect("nobody closes it");
            work()
        });
        working.await.expect("the work does not panic")
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering::SeqCst},
        thread,
        time::Duration,
    };

    use super::*;

    /// As many threads as come would leave the runtime's thread its share of the processors among them.
    #[tokio::test]
    async fn of_work_beside_the_runtime_one_goes_on_at_a_time_even_if_nobody_waits_for_it() {
        let turns = Turns::new(1);
        let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let work = || {
            let (running, most) = (running.clone(), most.clone());
            move || {
                most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                thread::sleep(Duration::from_millis(5));
                running.fetch_sub(1, SeqCst);
            }
        };
        for n in 0..20 {
            let (turns, work) = (turns.clone(), work());
            let working = tokio::spawn(async move { turns.beside(work).await });
            tokio::task::yield_now().await;
            if n % 2 == 0 {
                working.abort();
            }
        }
        turns.beside(work()).await;
        assert_eq!(most.load(SeqCst), 1);
    }
}
