//! Logs: text for a terminal, JSON lines otherwise, always to stderr.
//!
//! Owns the one tracing subscriber of the process. Exporting spans is one more layer here.
//! Which ids a line carries is decided by the spans, see [`crate::trace`].

use std::{
    fmt,
    io::{self, IsTerminal as _},
    panic::PanicHookInfo,
    str::FromStr,
    sync::{Once, OnceLock},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// What is said of libraries when a single word sets the level: async-nats logs every failed attempt
/// to connect as an error, which [`crate::nats`] reports already, and less often.
const QUIET: &str = "async_nats=off,hyper=warn,h2=warn,rustls=warn,reqwest=warn,sled=warn";

/// How much is logged: one of TRACE, DEBUG, INFO, WARN, ERROR, OFF in any case, or directives as in
/// `info,muster_agent=debug`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

/// A log filter that can't be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a log level: write TRACE, DEBUG, INFO, WARN, ERROR or OFF, or directives such as \"info,muster_agent=debug\"")]
pub struct LogFilterError {
    text: String,
}

impl LogFilter {
    /// INFO for us, less for libraries.
    #[must_use]
    pub fn info() -> Self {
        Self("INFO".to_owned())
    }

    fn directives(&self) -> String {
        let text = self.0.trim();
        if LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text)) {
            format!("{QUIET},{}", text.to_ascii_lowercase())
        } else {
            text.to_owned()
        }
    }
}

const LEVELS: [&str; 6] = ["trace", "debug", "info", "warn", "error", "off"];

impl Default for LogFilter {
    fn default() -> Self {
        Self::info()
    }
}

impl FromStr for LogFilter {
    type Err = LogFilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || LogFilterError { text: text.to_owned() };
        let word = text.trim();
        let is_level = LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
        // A single word that is not a level would be taken for a module's name, silently.
        if !is_level && !word.contains(['=', ',']) {
            return Err(error());
        }
        let filter = Self(word.to_owned());
        EnvFilter::try_new(filter.directives()).map_err(|_| error())?;
        Ok(filter)
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for LogFilter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for LogFilter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text when stderr is a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts logging for this process, and sends panics to the log. Later calls change nothing, so
/// that tests and several services in one process may all call it; the first one wins.
pub fn init(filter: &LogFilter, format: LogFormat) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| start(filter, format));
}

fn start(filter: &LogFilter, format: LogFormat) {
    let json = match format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    // The directives were checked when the filter was parsed.
    let directives = EnvFilter::new(filter.directives());
    let lines = tracing_subscriber::fmt::layer().with_writer(|| Filtered(io::stderr()));
    let lines = if json {
        // Outer spans stay in the list: a line inside an inner span still shows the trace.
        lines.json().flatten_event(true).with_current_span(false).boxed()
    } else {
        lines.with_ansi(io::stderr().is_terminal()).boxed()
    };
    let started = tracing_subscriber::registry().with(directives).with(lines).try_init();
    // Someone else (a test) has a subscriber already: theirs stays, and so does their panic hook.
    if started.is_ok() {
        std::panic::set_hook(Box::new(log_panic));
    }
}

/// What every line passes through on its way out.
type Filter = Box<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

static FILTER: OnceLock<Filter> = OnceLock::new();

/// Passes every line of this process's log through `filter` from now on, whole and as it is written: for what must not get out, whoever logs it.
/// Later calls change nothing, as with [`init`]. The filter must not log.
pub fn filter(filter: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static) {
    // The first one stays.
    let _ = FILTER.set(Box::new(filter));
}

/// Writes lines through the filter. The layer gives each line as one write.
struct Filtered<W>(W);

impl<W: io::Write> io::Write for Filtered<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match FILTER.get() {
            Some(filter) => self.0.write_all(&filter(line)).map(|()| line.len()),
            None => self.0.write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let location = info.location().map(ToString::to_string);
    let thread = std::thread::current();
    tracing::error!(
        location = location.as_deref().unwrap_or("unknown"),
        thread = thread.name().unwrap_or("unnamed"),
        "panic: {}",
        info.payload_as_str().unwrap_or("no message"),
    );
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::io::Write as _;

    use super::*;

    #[test]
    fn levels_and_directives_are_accepted() {
        for text in ["INFO", "warn", " Debug ", "off", "info,muster_agent=debug", "muster_agent=trace"] {
            assert!(text.parse::<LogFilter>().is_ok(), "{text:?}");
        }
    }

    #[test]
    fn a_word_that_is_no_level_is_refused_instead_of_taken_for_a_module() {
        for text in ["", "verbose", "inof", "3", "muster_agent=loud"] {
            let error = text.parse::<LogFilter>().unwrap_err().to_string();
            assert!(error.contains("TRACE, DEBUG, INFO"), "{error}");
        }
    }

    #[test]
    fn a_single_level_keeps_libraries_quiet_and_directives_are_taken_as_they_are() {
        assert!(LogFilter::info().directives().ends_with(",info"));
        assert!(LogFilter::info().directives().contains("async_nats="));
        let own: LogFilter = "debug,async_nats=trace".parse().unwrap();
        assert_eq!(own.directives(), "debug,async_nats=trace");
    }

    #[test]
    fn every_line_passes_the_filter_as_a_whole_and_the_first_filter_stays() {
        let mut out = Vec::new();
        Filtered(&mut out).write_all(b"before\n").unwrap();
        filter(|line| String::from_utf8_lossy(line).replace("hunter2", "***").into_bytes());
        filter(|_| Vec::new());
        Filtered(&mut out).write_all(b"the password is hunter2 here\n").unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "before\nthe password is *** here\n");
    }

    #[test]
    fn logging_can_be_started_twice() {
        init(&LogFilter::info(), LogFormat::Json);
        init(&LogFilter::default(), LogFormat::Text);
    }
}
