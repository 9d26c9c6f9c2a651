//! The rendezvous of `inproc://` names: who is bound, and who connected before there was anyone.

use std::collections::HashMap;

/// Names of one context. `B` is what a binder leaves there, `C` a connector that waits.
#[derive(Debug)]
pub(crate) struct Rendezvous<B, C> {
    names: HashMap<String, Name<B, C>>,
}

#[derive(Debug)]
enum Name<B, C> {
    Bound(B),
    Awaited(Vec<C>),
}

impl<B, C> Default for Rendezvous<B, C> {
    fn default() -> Self {
        Self { names: HashMap::new() }
    }
}

impl<B, C> Rendezvous<B, C> {
    /// Binds the name and returns who waits for it, in the order in which they came. Hands `binder` back when the
    /// name is bound already.
    pub(crate) fn bind(&mut self, name: &str, binder: B) -> Result<Vec<C>, B> {
        if let Some(Name::Bound(_)) = self.names.get(name) {
            return Err(binder);
        }
        match self.names.insert(name.to_owned(), Name::Bound(binder)) {
            Some(Name::Awaited(waiting)) => Ok(waiting),
            _ => Ok(Vec::new()),
        }
    }

    /// Who is bound there.
    pub(crate) fn bound(&self, name: &str) -> Option<&B> {
        match self.names.get(name) {
            Some(Name::Bound(binder)) => Some(binder),
            _ => None,
        }
    }

    /// Waits for the name to be bound. Precondition: it is not.
    pub(crate) fn wait(&mut self, name: &str, connector: C) {
        match self.names.get_mut(name) {
            Some(Name::Awaited(waiting)) => waiting.push(connector),
            Some(Name::Bound(_)) => debug_assert!(false, "{name} is bound"),
            None => {
                self.names.insert(name.to_owned(), Name::Awaited(vec![connector]));
            }
        }
    }

    /// Frees the name if it is bound by one for which `ours` holds.
    pub(crate) fn unbind(&mut self, name: &str, ours: impl FnOnce(&B) -> bool) -> bool {
        let bound = matches!(self.names.get(name), Some(Name::Bound(binder)) if ours(binder));
        if bound {
            self.names.remove(name);
        }
        bound
    }

    /// Forgets the connectors for which `ours` holds.
    pub(crate) fn cancel(&mut self, name: &str, ours: impl Fn(&C) -> bool) {
        if let Some(Name::Awaited(waiting)) = self.names.get_mut(name) {
            waiting.retain(|connector| !ours(connector));
            if waiting.is_empty() {
                self.names.remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connectors_wait_until_the_name_is_bound() {
        let mut names = Rendezvous::default();
        names.wait("a", 1);
        names.wait("a", 2);
        names.wait("b", 3);
        assert_eq!(names.bind("a", 'x'), Ok(vec![1, 2]));
        assert_eq!(names.bound("a"), Some(&'x'));
        assert_eq!(names.bound("b"), None);
    }

    #[test]
    fn a_name_is_bound_once_and_free_again_after_its_owner_unbinds() {
        let mut names = Rendezvous::<_, ()>::default();
        assert_eq!(names.bind("a", 'x'), Ok(vec![]));
        assert_eq!(names.bind("a", 'y'), Err('y'));
        assert!(!names.unbind("a", |owner| *owner == 'y'));
        assert!(names.unbind("a", |owner| *owner == 'x'));
        assert_eq!(names.bind("a", 'y'), Ok(vec![]));
    }

    #[test]
    fn a_connector_that_gave_up_is_not_connected_later() {
        let mut names = Rendezvous::default();
        names.wait("a", 1);
        names.wait("a", 2);
        names.cancel("a", |connector| *connector == 1);
        assert_eq!(names.bind("a", 'x'), Ok(vec![2]));
        names.wait("b", 9);
        names.cancel("b", |_| true);
        assert!(names.names.len() == 1, "an empty waiting list is not kept");
    }
}
