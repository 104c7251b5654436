//! Which addresses are not on the public internet. Pure tables, from the IANA special-purpose registries
//! (<https://www.iana.org/assignments/iana-ipv4-special-registry>, `…ipv6-special-registry`).
//!
//! IPv6 is an allow-list: only 2000::/3 is global unicast, and everything outside it is refused, known or not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address is not public.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Special {
    pub(super) name: &'static str,
    /// No agent may send there, whatever its settings: the address names no single host.
    pub(super) always: bool,
}

const fn special(name: &'static str) -> Special {
    Special { name, always: false }
}

const fn never(name: &'static str) -> Special {
    Special { name, always: true }
}

const V4: &[([u8; 4], u32, Special)] = &[
    ([0, 0, 0, 0], 8, never("this network")),
    ([10, 0, 0, 0], 8, special("private")),
    ([100, 64, 0, 0], 10, special("carrier-grade NAT")),
    ([127, 0, 0, 0], 8, special("loopback")),
    ([169, 254, 0, 0], 16, special("link-local, cloud metadata")),
    ([172, 16, 0, 0], 12, special("private")),
    ([192, 0, 0, 0], 24, special("IETF protocols")),
    ([192, 0, 2, 0], 24, special("documentation")),
    ([192, 88, 99, 0], 24, special("6to4 relay")),
    ([192, 168, 0, 0], 16, special("private")),
    ([198, 18, 0, 0], 15, special("benchmarking")),
    ([198, 51, 100, 0], 24, special("documentation")),
    ([203, 0, 113, 0], 24, special("documentation")),
    ([224, 0, 0, 0], 4, never("multicast")),
    ([240, 0, 0, 0], 4, never("reserved or broadcast")),
];

const V6: &[([u16; 8], u32, Special)] = &[
    ([0, 0, 0, 0, 0, 0, 0, 0], 128, never("unspecified")),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, special("loopback")),
    ([0, 0, 0, 0, 0, 0, 0, 0], 96, special("IPv4-compatible")),
    ([0, 0, 0, 0, 0xffff, 0, 0, 0], 96, special("IPv4-translated")),
    ([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, special("NAT64")),
    ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, special("local NAT64")),
    ([0x100, 0, 0, 0, 0, 0, 0, 0], 64, special("discard")),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, special("Teredo")),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, special("IETF protocols")),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, special("documentation")),
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, special("6to4")),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, special("documentation")),
    ([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16, special("segment routing")),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, special("unique local")),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, special("link-local")),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, special("site-local")),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, never("multicast")),
];

/// What is special about an address; `None` for a public one. A mapped address (`::ffff:a.b.c.d`) is its IPv4 address,
/// as that is where the system connects to.
pub(super) fn special_use(address: IpAddr) -> Option<Special> {
    match address.to_canonical() {
        IpAddr::V4(v4) => V4.iter().find(|(net, prefix, _)| in_v4(v4, *net, *prefix)).map(|(.., special)| *special),
        IpAddr::V6(v6) => {
            let listed = V6.iter().find(|(net, prefix, _)| in_v6(v6, *net, *prefix)).map(|(.., special)| *special);
            listed
                .or_else(|| is_isatap(v6).then(|| special("ISATAP")))
                .or_else(|| (!in_v6(v6, [0x2000, 0, 0, 0, 0, 0, 0, 0], 3)).then(|| special("not global unicast")))
        }
    }
}

fn in_v4(address: Ipv4Addr, net: [u8; 4], prefix: u32) -> bool {
    (address.to_bits() ^ Ipv4Addr::from(net).to_bits()).leading_zeros() >= prefix
}

fn in_v6(address: Ipv6Addr, net: [u16; 8], prefix: u32) -> bool {
    (address.to_bits() ^ Ipv6Addr::from(net).to_bits()).leading_zeros() >= prefix
}

/// The interface id `[02]00:5efe:a.b.c.d` under any prefix (RFC 5214): it tunnels to that IPv4 address.
fn is_isatap(address: Ipv6Addr) -> bool {
    let interface = (address.to_bits() >> 32) as u32;
    interface & 0xfcff_ffff == 0x0000_5efe
}

#[cfg(test)]
mod tests;
