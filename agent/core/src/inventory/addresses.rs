//! The addresses of one thing: mostly one, sometimes one of each family.

use std::net::IpAddr;
use std::ops::Deref;

/// In the order written. Kept in place if it is one.
#[derive(Clone)]
pub struct Addresses(Kept);

#[derive(Clone)]
enum Kept {
    One(IpAddr),
    Several(Box<[IpAddr]>),
}

impl Deref for Addresses {
    type Target = [IpAddr];

    fn deref(&self) -> &[IpAddr] {
        match &self.0 {
            Kept::One(address) => std::slice::from_ref(address),
            Kept::Several(addresses) => addresses,
        }
    }
}

impl Default for Addresses {
    fn default() -> Self {
        Self(Kept::Several(Box::default()))
    }
}

impl From<Vec<IpAddr>> for Addresses {
    fn from(addresses: Vec<IpAddr>) -> Self {
        match *addresses {
            [address] => Self(Kept::One(address)),
            _ => Self(Kept::Several(addresses.into())),
        }
    }
}

impl From<IpAddr> for Addresses {
    fn from(address: IpAddr) -> Self {
        Self(Kept::One(address))
    }
}

impl<'a> IntoIterator for &'a Addresses {
    type Item = &'a IpAddr;
    type IntoIter = std::slice::Iter<'a, IpAddr>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl PartialEq for Addresses {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Addresses {}

impl std::fmt::Debug for Addresses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_those_they_were_made_of_whether_one_or_several() {
        let [v4, v6]: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        for all in [vec![], vec![v4], vec![v4, v6]] {
            assert_eq!(*Addresses::from(all.clone()), *all);
        }
        assert_eq!(Addresses::from(v4), Addresses::from(vec![v4]));
        assert_ne!(Addresses::from(v4), Addresses::from(v6));
        assert!(Addresses::default().is_empty());
    }

    #[test]
    fn one_takes_no_more_than_a_list_does() {
        assert!(size_of::<Addresses>() <= size_of::<Vec<IpAddr>>());
    }
}
