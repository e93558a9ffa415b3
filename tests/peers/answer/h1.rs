//! HTTP/1.1, as a server: enough of it for one request after the other.

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::{Asked, Backend};

/// Bytes of a head, and of a line of it: more than any test sends.
const HEAD_BYTES: u64 = 256 * 1024;

pub(super) async fn serve(stream: TcpStream, backend: &Backend) -> Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(asked) = request(&mut stream).await? {
        let answer = backend.answer(&asked).await;
        if answer.close {
            return Ok(());
        }
        let text = format!(
            "HTTP/1.1 {} Answered\r\ncontent-type: application/json\r\ncontent-length: {}\r\nx-backend: {}\r\nx-secret: kept\r\n\r\n{}",
            answer.status,
            answer.body.len(),
            backend.name,
            if asked.method == "HEAD" {
                ""
            } else {
                &answer.body
            }
        );
        stream.write_all(text.as_bytes()).await?;
        let mut fields = asked.fields.iter();
        if fields.any(|(name, value)| name == "connection" && value.contains("close")) {
            return Ok(());
        }
    }
    Ok(())
}

/// Returns the next request with its body read, or `None` at the end.
async fn request(stream: &mut BufReader<TcpStream>) -> Result<Option<Asked>> {
    let mut line = String::new();
    if line_of(stream, &mut line).await? == 0 {
        return Ok(None);
    }
    let mut words = line.trim_end().split(' ').map(str::to_owned);
    let (method, target) = words
        .next()
        .zip(words.next())
        .context("no line of a request")?;
    let mut fields = Vec::new();
    loop {
        line.clear();
        if line_of(stream, &mut line).await? == 0 {
            bail!("a head without an end");
        }
        let text = line.trim_end();
        if text.is_empty() {
            break;
        }
        let (name, value) = text.split_once(':').context("a field without a colon")?;
        fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let find = |what: &str| fields.iter().find(|it| it.0 == what).map(|it| it.1.clone());
    let body = if find("transfer-encoding").is_some() {
        chunks(stream).await?
    } else {
        let length = find("content-length").and_then(|text| text.parse().ok());
        skip(stream, length.unwrap_or(0)).await?
    };
    Ok(Some(Asked {
        version: "1.1",
        method,
        target,
        host: find("host").unwrap_or_default(),
        fields,
        body,
    }))
}

async fn line_of(stream: &mut BufReader<TcpStream>, line: &mut String) -> Result<usize> {
    Ok(stream.take(HEAD_BYTES).read_line(line).await?)
}

async fn skip(stream: &mut BufReader<TcpStream>, length: usize) -> Result<usize> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(length)
}

async fn chunks(stream: &mut BufReader<TcpStream>) -> Result<usize> {
    let mut all = 0;
    loop {
        let mut line = String::new();
        line_of(stream, &mut line).await?;
        let size = usize::from_str_radix(line.trim_end(), 16).context("no size of a chunk")?;
        if size == 0 {
            // Trailers, and the empty line after them.
            while line_of(stream, &mut line).await? > 2 {}
            return Ok(all);
        }
        all += skip(stream, size).await?;
        skip(stream, 2).await?;
    }
}
