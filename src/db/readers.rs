//! The connections that read while the hub writes.

use sqlx::{
    SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};

use crate::process;

/// Readers that work at once. More would wait for the processor: a page is read from memory as a rule.
const READERS: u32 = 4;

/// Has some steps.
const ANY_STATEMENT: &str = "select count(*) from sqlite_schema";

/// Opens all of them at once, and for good: one that is opened later would open files that may have been moved or replaced by then.
pub(super) async fn open_readers(options: SqliteConnectOptions) -> Result<SqlitePool, sqlx::Error> {
    let options = options.read_only(true);
    SqlitePoolOptions::new()
        .max_connections(READERS)
        .min_connections(READERS)
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
