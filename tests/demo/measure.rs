//! One side of the comparison: requests a second, latency, and CPU time.

use anyhow::{Context, Result, anyhow};

use crate::software::Software;

/// What one program's clients saw, and what all pods together used for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    /// Requests a second.
    pub(crate) rate: f64,
    /// Median latency.
    pub(crate) p50_us: f64,
    /// 99th percentile of the latency.
    pub(crate) p99_us: f64,
    /// CPU time for each request, of all pods.
    pub(crate) cpu_us: f64,
}

/// Figures of both programs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Side {
    /// nginx, asked by wrk.
    pub(crate) nginx: Figures,
    /// redis, asked by redis-benchmark.
    pub(crate) redis: Figures,
}

impl Side {
    /// Measures both programs in turn, `rounds` times, and returns the medians.
    pub(crate) fn measure(software: &Software, rounds: u32, seconds: u32) -> Result<Self> {
        let (mut nginx, mut redis) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            nginx.push(wrk(software, seconds)?);
            // As many requests as the last rate would make in that time.
            let guess = redis.last().map_or(20_000.0, |last: &Figures| last.rate);
            redis.push(redis_benchmark(software, guess * f64::from(seconds))?);
        }
        Ok(Self {
            nginx: median(nginx),
            redis: median(redis),
        })
    }
}

/// Returns what `look` returns while there is traffic. Nothing is measured meanwhile: looking costs CPU time too.
pub(crate) fn beside_traffic<T>(software: &Software, look: impl FnOnce() -> T) -> Result<T> {
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| wrk(software, 2).and(redis_benchmark(software, 200_000.0)));
        let seen = look();
        let ended = traffic
            .join()
            .map_err(|_| anyhow!("the traffic panicked"))?;
        ended.map(|_| seen)
    })
}

/// Returns the median of each figure on its own.
fn median(all: Vec<Figures>) -> Figures {
    let of = |value: fn(&Figures) -> f64| {
        let mut values: Vec<_> = all.iter().map(value).collect();
        values.sort_unstable_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    Figures {
        rate: of(|it| it.rate),
        p50_us: of(|it| it.p50_us),
        p99_us: of(|it| it.p99_us),
        cpu_us: of(|it| it.cpu_us),
    }
}

fn wrk(software: &Software, seconds: u32) -> Result<Figures> {
    let before = used_us(software)?;
    let text = software.wrk(seconds)?;
    let used = used_us(software)? - before;
    parse_wrk(&text, used).with_context(|| format!("wrk wrote:\n{text}"))
}

fn parse_wrk(text: &str, used_us: f64) -> Option<Figures> {
    let word_after = |prefix: &str| {
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(prefix))?;
        line.split_whitespace().next()
    };
    let requests = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in "))?;
    // Socket errors or answers other than 2xx would make every other figure worthless.
    if text.contains("Socket errors") || text.contains("Non-2xx") {
        return None;
    }
    Some(Figures {
        rate: word_after("Requests/sec:")?.parse().ok()?,
        p50_us: micros(word_after("50%")?)?,
        p99_us: micros(word_after("99%")?)?,
        cpu_us: used_us / requests.0.parse::<f64>().ok()?,
    })
}

/// Returns a duration in wrk's form, such as `38.00us` or `1.20ms`.
fn micros(text: &str) -> Option<f64> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit);
    let scale = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * scale)
}

fn redis_benchmark(software: &Software, requests: f64) -> Result<Figures> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count of some thousands"
    )]
    let count = requests.max(1000.0) as u64;
    let before = used_us(software)?;
    let text = software.redis(count)?;
    let used = used_us(software)? - before;
    parse_redis(&text, used, requests).with_context(|| format!("redis-benchmark wrote:\n{text}"))
}

fn parse_redis(text: &str, used_us: f64, requests: f64) -> Option<Figures> {
    let line = text.lines().find(|line| line.starts_with("\"GET\""))?;
    // "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
    let fields: Vec<f64> = line
        .split(',')
        .skip(1)
        .filter_map(|word| word.trim_matches('"').parse().ok())
        .collect();
    Some(Figures {
        rate: *fields.first()?,
        p50_us: fields.get(3)? * 1e3,
        p99_us: fields.get(5)? * 1e3,
        cpu_us: used_us / requests,
    })
}

/// Returns the CPU time that the pods have used.
fn used_us(software: &Software) -> Result<f64> {
    let mut sum = 0.0;
    for (pod, _) in software.pods() {
        sum += pod.cpu_time()?.as_secs_f64() * 1e6;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_wrk_writes() {
        let text = "  Latency Distribution\n     50%  142.00us\n     75%  166.00us\n     99%    1.25ms\n  \
                    200000 requests in 2.00s, 447.62MB read\nRequests/sec:  99876.50\n";
        let figures = parse_wrk(text, 4e6).unwrap();
        assert_eq!(
            (figures.rate, figures.p50_us, figures.p99_us, figures.cpu_us),
            (99876.5, 142.0, 1250.0, 20.0)
        );
        assert!(parse_wrk(&format!("{text}  Socket errors: connect 0, read 3\n"), 4e6).is_none());
    }

    #[test]
    fn reads_what_redis_benchmark_writes() {
        let text = "\"test\",\"rps\"\n\"GET\",\"90909.09\",\"0.050\",\"0.016\",\"0.047\",\"0.063\",\"0.071\",\"0.287\"\n";
        let figures = parse_redis(text, 2e5, 10_000.0).unwrap();
        assert_eq!(
            (figures.rate, figures.p50_us, figures.p99_us, figures.cpu_us),
            (90909.09, 47.0, 71.0, 20.0)
        );
    }
}
