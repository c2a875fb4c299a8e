//! The connections that read while the hub writes, and the threads that make events of what they read.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use sqlx::{
    SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};
use tokio::runtime::{self, Runtime};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::process::{self, processors_but_one};

/// Readers that work at once. More would wait for the processor: a page is read from memory as a rule. No more threads than that make
/// events of what they read.
const READERS: u8 = 4;

/// Has some steps.
const ANY_STATEMENT: &str = "select count(*) from sqlite_schema";

/// Opens all of them at once, and for good: one that is opened later would open files that may have been moved or replaced by then.
pub(super) async fn open_readers(options: SqliteConnectOptions) -> Result<SqlitePool, sqlx::Error> {
    let options = options.read_only(true);
    SqlitePoolOptions::new()
        .max_connections(READERS.into())
        .min_connections(READERS.into())
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .after_connect(|connection, _| Box::pin(give_way(connection)))
        .connect_with(options.thread_name(|id| format!("segno-reader-{id}")))
        .await
}

/// Has the thread of `connection` give way: what is published does not wait for a processor behind replays and pages of history.
///
/// In a container or a unit of systemd these are the hub's own threads alone. Beside other programs that keep every processor busy in the
/// same session a replay takes three times as long as it would: 4.1 s and not 1.4 for 400,000 events.
async fn give_way(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let mut handle = connection.lock_handle().await?;
    // Called by the thread that runs the statement: sqlx shows that thread to nobody otherwise.
    handle.set_progress_handler(1, || {
        process::give_way();
        true
    });
    drop(handle);
    sqlx::query(ANY_STATEMENT).execute(&mut *connection).await?;
    connection.lock_handle().await?.remove_progress_handler();
    Ok(())
}

/// Threads that wait for rows and make events of them, so that those who publish do not wait for that.
///
/// To wake one costs 60 µs a page. Source: the soak test, where rows took a quarter of the time of the thread that serves everybody.
#[derive(Debug)]
pub(super) struct ReadingThreads(Option<Runtime>);

impl ReadingThreads {
    pub(super) fn start() -> io::Result<Self> {
        let threads = processors_but_one().min(READERS.into());
        let number = AtomicUsize::new(0);
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name_fn(move || format!("segno-rows-{}", number.fetch_add(1, Relaxed)))
            .on_thread_start(process::give_way)
            // How long a connection is waited for.
            .enable_time()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    /// Reads there, and waits for what was read. Ends when the future is dropped.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        reading: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let threads = self.0.as_ref().expect("they end with this");
        let reading = threads.spawn(reading.in_current_span());
        let read = AbortOnDropHandle::new(reading).await;
        read.expect("reading does not panic")
    }
}

impl Drop for ReadingThreads {
    /// Waits for none of them: this may be one of them, or a thread that serves others.
    fn drop(&mut self) {
        if let Some(threads) = self.0.take() {
            threads.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::{
        db::{self, Order, Published, Range},
        event::{Data, EventId, EventType, NewEvent, Timestamp, Topic},
        filter::Filter,
        process::thread_cpu_time,
    };

    /// One thread may serve everybody: what it does for one reader all others wait for.
    #[tokio::test]
    #[expect(clippy::print_stdout, reason = "the figures")]
    async fn whoever_asks_for_events_has_no_work_with_their_rows() {
        let folder = tempfile::tempdir().unwrap();
        let (log, mut appender) = db::open(&folder.path().join("segno.db")).await.unwrap();
        let event = NewEvent {
            topic: Topic::new("t").unwrap(),
            event_type: EventType::default(),
            data: Data::from_text("x").unwrap(),
            key: None,
        };
        let published = Published {
            at: Timestamp::now(),
            events: vec![event; 1000],
        };
        appender.append(vec![published]).await.unwrap();
        let ids: Vec<_> = (1..=1000).map(EventId::from_row).collect();
        let filter = Arc::new(Filter::default());
        let begun = thread_cpu_time();
        for _ in 0..100 {
            let all = Range::after(EventId::ZERO);
            let page = log.page(&filter, all, Order::Ascending, 1000).await;
            assert_eq!(page.unwrap().events.len(), 1000);
            assert_eq!(log.events(&ids).await.unwrap().len(), 1000);
        }
        let took = thread_cpu_time() - begun;
        println!("200,000 events were asked for in {took:?} of work");
        assert!(took.as_millis() < 500, "{took:?}");
    }
}
