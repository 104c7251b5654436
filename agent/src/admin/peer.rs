//! Whose process is at the other end of a connection on this machine: Linux tells it in `/proc/net/tcp`, with the user's id in each row.

use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// Sockets of IPv4, and those of IPv6, by which IPv4 is reached too.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];

/// The id of the user whose socket has this own and this other end; `None` when there is none that a process has open. The socket that listens has
/// nothing at its other end: [`LISTENING`].
pub(crate) fn owner(own: SocketAddr, other: SocketAddr) -> io::Result<Option<u32>> {
    for table in TABLES {
        match fs::read_to_string(table) {
            Ok(text) => {
                if let Some(uid) = find(&text, own, other) {
                    return Ok(Some(uid));
                }
            }
            // Without IPv6 there is no such table.
            Err(error) if error.kind() == io::ErrorKind::NotFound && table != "/proc/net/tcp" => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The other end of a socket that listens.
pub(crate) const LISTENING: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

fn find(table: &str, own: SocketAddr, other: SocketAddr) -> Option<u32> {
    table.lines().skip(1).find_map(|row| {
        // sl, local_address, rem_address, st, tx_queue:rx_queue, tr:tm->when, retrnsmt, uid, timeout, inode
        let mut words = row.split_ascii_whitespace().skip(1);
        let ends = (address(words.next()?)?, address(words.next()?)?);
        let uid = words.nth(4)?.parse().ok()?;
        // Once its process has closed it, a socket has no inode, and the kernel gives root for its user.
        let open = words.nth(1)? != "0";
        (ends == (own, other) && open).then_some(uid)
    })
}

/// An end as the kernel prints it: the address in words of 32 bits in this machine's order, a colon, the port; all hexadecimal.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_user_of_an_open_socket_is_found_and_of_a_closed_one_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let client = TcpStream::connect(server).unwrap();
        let (accepted, from) = listener.accept().unwrap();
        assert_eq!(from, client.local_addr().unwrap());
        let own = Some(nix::unistd::geteuid().as_raw());
        assert_eq!(owner(from, server).unwrap(), own);
        assert_eq!(owner(server, LISTENING).unwrap(), own);
        assert_eq!(owner(from, SocketAddr::from(([127, 0, 0, 1], 1))).unwrap(), None);
        // It lives on in the kernel without an owner until we have closed our end.
        drop(client);
        assert_eq!(owner(from, server).unwrap(), None);
        drop(accepted);
    }

    #[test]
    fn a_socket_of_ipv6_that_reaches_ipv4_is_found_too() {
        if cfg!(target_endian = "little") {
            let table = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0000000000000000FFFF00000100007F:D2F0 0000000000000000FFFF00000100007F:23E7 01 00000000:00000000 00:00000000 00000000  1000        0 31337 1
   1: 0000000000000000FFFF00000100007F:D2F1 0000000000000000FFFF00000100007F:23E7 06 00000000:00000000 00:00000000 00000000     0        0 0 1
   2: garbage";
            let end = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
            assert_eq!(find(table, end(0xd2f0), end(9191)), Some(1000));
            assert_eq!(find(table, end(0xd2f1), end(9191)), None, "nobody's any more");
            assert_eq!(find(table, end(9191), end(0xd2f0)), None);
        }
    }
}
