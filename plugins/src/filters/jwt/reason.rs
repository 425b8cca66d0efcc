//! Why a token is not taken: for the log and the metrics, never for its bearer.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Why a token is not taken.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// All of them, in order.
            pub const ALL: [Self; [$($label),*].len()] = [$(Self::$name),*];

            /// Its name in the log and in metrics.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }
        }
    };
}

reasons! {
    /// Longer than any token that is looked at.
    TooLong = "too_long",
    /// Not three parts of base 64, or not JSON in them.
    Malformed = "malformed",
    /// `alg` is not one of those that the file allows; `none` never is.
    Algorithm = "algorithm",
    /// It wants something understood that is not (`crit`).
    Critical = "critical",
    /// Signed with a key that the issuer does not have, or that is for another algorithm.
    UnknownKey = "unknown_key",
    /// The signature is not over these bytes by this key.
    Signature = "signature",
    /// From another issuer.
    Issuer = "issuer",
    /// For somebody else.
    Audience = "audience",
    /// Its time is over, or has no end.
    Expired = "expired",
    /// Its time has not come, or it was made in the future.
    Early = "early",
    /// A claim that says who somebody is lacks, or is not what it must be.
    Claim = "claim",
    /// It is good, but for somebody who is not among the tenants.
    Tenant = "tenant",
    /// The issuer's keys have never been there.
    NoKeys = "no_keys",
}
