//! The macro behind every closed enum that crosses between kernel and user space.

/// Declares a closed enum that crosses as a `u8`, with a metric label and words for a person per variant.
///
/// Numbers are append-only: they are in pinned maps and in records of older agents.
macro_rules! closed_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $number:literal, $label:literal, $words:literal;)* }) => {
        $(#[$doc])*
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum $name {
            $($(#[$variant_doc])* $variant = $number,)*
        }

        impl $name {
            /// Every variant, in order of its number.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Returns the metric label: lower case, words joined by `_`.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            /// Returns the words for a person: one lower-case phrase.
            pub const fn words(self) -> &'static str {
                match self { $(Self::$variant => $words,)* }
            }

            /// Returns the variant with this number, or `None` when there is none (a newer kernel object wrote it).
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

pub(crate) use closed_enum;
