//! The migrations, in the binary.
//!
//! sqlx has a macro that reads the folder, but it brings a second SQLite into the build: its macros are compiled for the machine
//! that builds, with everything they can talk to.

use std::sync::LazyLock;

use sqlx::{
    SqlSafeStr,
    migrate::{Migration, MigrationType, Migrator},
};

/// Version, name and content of each file of `migrations/`.
const FILES: [(i64, &str, &str); 6] = [
    (
        1,
        "events",
        include_str!("../../migrations/0001_events.sql"),
    ),
    (
        2,
        "trimmed",
        include_str!("../../migrations/0002_trimmed.sql"),
    ),
    (3, "log", include_str!("../../migrations/0003_log.sql")),
    (
        4,
        "position",
        include_str!("../../migrations/0004_position.sql"),
    ),
    (
        5,
        "commands",
        include_str!("../../migrations/0005_commands.sql"),
    ),
    (
        6,
        "proposers",
        include_str!("../../migrations/0006_proposers.sql"),
    ),
];

/// What a file goes through until this program can use it.
pub(super) static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let migration = |(version, name, sql): (i64, &'static str, &'static str)| {
        Migration::new(
            version,
            name.into(),
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    };
    Migrator::with_migrations(FILES.map(migration).into())
});

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn every_file_of_the_folder_is_in_the_binary() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let in_folder: BTreeSet<_> = fs::read_dir(folder).unwrap().map(name).collect();
        let listed = FILES.map(|(version, name, _)| format!("{version:04}_{name}.sql").into());
        assert_eq!(in_folder, listed.into(), "list it in db/migrations.rs");
    }

    /// sqlx notes the checksum of each in the file, and refuses a file whose checksums are others.
    #[test]
    fn what_was_applied_by_earlier_versions_is_what_is_applied_now() {
        let checksums: Vec<_> = MIGRATIONS
            .iter()
            .map(|migration| {
                let hex = migration.checksum.iter().take(8);
                hex.map(|byte| format!("{byte:02x}")).collect::<String>()
            })
            .collect();
        assert_eq!(
            checksums,
            [
                "daba9283f1d7ec4e",
                "67945be1d1f217e7",
                "a0a0e6989e5f49e8",
                "510598447788a970",
                "76c0a09093a5dced",
                "8666659ae28b085d"
            ]
        );
    }
}
