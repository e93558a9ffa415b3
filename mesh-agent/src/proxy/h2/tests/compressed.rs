//! Lists of fields that the `h2` crate reads and writes at the other end of a connection: what goes there comes back, however tables
//! have changed by then.

use h2::server;

use super::super::{ClientLimits, connect};
use super::*;
use crate::chance::Chance;
use crate::proxy::exchange::{Outgoing as _, RequestSink as _, ResponseSource as _};

/// Gives each request its fields back, from a table of `table` bytes.
async fn mirror(far: TcpStream, table: u32) {
    let mut server = server::Builder::new();
    server.max_header_list_size(1 << 20);
    server.header_table_size(table);
    let mut server = server.handshake::<_, Bytes>(far).await.unwrap();
    while let Some(Ok((request, mut respond))) = server.accept().await {
        let mut response = http::Response::new(());
        *response.headers_mut() = request.headers().clone();
        let path = request.uri().path().parse().unwrap();
        response.headers_mut().insert("x-path", path);
        respond.send_response(response, true).unwrap();
    }
}

/// Draws fields, of which some repeat, some are secret, and one is long now and then.
fn draw(chance: &mut Chance) -> Fields {
    let mut below = |most: u32| chance.below(most) as usize;
    let mut fields = Fields::default();
    for number in 0..below(12) {
        let name = format!("x-{number}-{}", ["a", "b", "longer-name"][below(3)]);
        let length = [0, 1, 7, 30, 200][below(5)];
        let letter = b"ab\xf0 9%"[below(3)];
        let value = vec![letter; length];
        match below(8) {
            0 => fields.append_secret(&name, &value),
            1 => fields.append(&name, format!("{}", below(1_000_000)).as_bytes()),
            _ => fields.append(&name, &value),
        }
    }
    if below(20) == 0 {
        fields.append("x-very-long", &vec![b'v'; 20_000]);
    }
    fields
}

#[tokio::test]
async fn fields_come_back_from_the_other_implementation() {
    for table in [4096, 0, 100, 65_536] {
        let (near, far) = connected().await;
        let mirrored = tokio::spawn(mirror(far, table));
        let limits = ClientLimits {
            header_list: 1 << 20,
            ..ClientLimits::default()
        };
        let connection = connect(Stream::Plain(near), &limits).await.unwrap();
        let mut chance = Chance::random();
        for number in 0..200 {
            let mut asked = get(&format!("/{}", number % 7));
            asked.fields = draw(&mut chance);
            let mut stream = connection.stream().unwrap();
            let (mut request, mut response) = stream.halves();
            request.head(&asked, BodySize::Empty).await.unwrap();
            let mut head = ResponseHead::default();
            soon(response.head(&mut head)).await.unwrap();
            let path = head.fields.get("x-path").map(<[u8]>::to_vec);
            assert_eq!(path.as_deref(), Some(asked.target.path().as_bytes()));
            head.fields.remove("x-path");
            let pairs = |fields: &Fields| {
                // It forgets which are secret.
                let pairs = fields
                    .iter()
                    .map(|it| (it.name.to_owned(), it.value.to_vec()));
                let mut pairs: Vec<_> = pairs.collect();
                pairs.sort();
                pairs
            };
            assert_eq!(
                pairs(&head.fields),
                pairs(&asked.fields),
                "a table of {table} bytes"
            );
        }
        drop(connection);
        soon(mirrored).await.unwrap();
    }
}
