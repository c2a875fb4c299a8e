//! segno
pub mod event;
pub mod event_log;
pub mod filter;
pub mod hub;
