//! The list of everything a [`Diagnostic`](super::Diagnostic) can be about.
//!
//! Codes are stable: a number is never used again for something else. 00xx reading files, 01xx fields and their types,
//! 02xx values by the rules of Istio's admission, 03xx suspicious but legal, 04xx not enforced here, 05xx references
//! between objects.

use std::fmt;

macro_rules! codes {
    ($($name:ident $text:literal $meaning:literal)*) => {
        /// The rule a diagnostic comes from.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $meaning] $name,)*
        }

        impl Code {
            /// All of them, by number.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// `UM0101`
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What it means, in one line; docs/diagnostics.md is made of these.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }
        }
    };
}

codes! {
    Syntax "UM0001" "The document is not valid YAML or JSON."
    NotAnObject "UM0002" "The document is not a Kubernetes object: apiVersion, kind or metadata.name is missing."
    UnreadableFile "UM0003" "A file or folder cannot be read."
    TooLarge "UM0004" "A file or document is beyond the size limits."
    DuplicateObject "UM0005" "The object exists twice; the first one in path order counts."
    DuplicateKey "UM0006" "A mapping has the same key twice."
    LastGoodKept "UM0007" "The object is refused as written now; its last good version stays in force."
    UnknownKind "UM0008" "Objects of this kind are not read."
    UnsupportedApiVersion "UM0009" "The kind does not exist in this apiVersion."

    UnknownField "UM0101" "The field does not exist; most likely a typo."
    WrongType "UM0102" "The value has another type than the field."
    InvalidName "UM0103" "Kubernetes would refuse this name, namespace or label."
    NullValue "UM0104" "A list item or map value is null."
    UnreadMeshSetting "UM0105" "This mesh setting has no effect here."
    InvalidKubernetesField "UM0106" "A field of a Kubernetes object has a value that Kubernetes would refuse."
    SnakeCaseField "UM0107" "A field is spelled as in protobuf, which Kubernetes would refuse."

    InvalidHost "UM0201" "A host is not a DNS name, wildcard or address that is allowed here."
    DuplicateHost "UM0202" "Two hosts of the object are the same or overlap."
    InvalidGatewayName "UM0203" "A gateway is not named by `name` or `namespace/name`."
    InvalidPort "UM0204" "A port is missing or not in 1 to 65535."
    InvalidSubset "UM0205" "A subset's name is not a DNS label, or occurs twice."
    InvalidExportTo "UM0206" "An exportTo list contradicts itself or is malformed."
    InvalidDuration "UM0207" "A duration is out of the field's range."
    InvalidPercent "UM0208" "A percentage is out of range."
    InvalidWeight "UM0209" "Weights are negative or sum to zero."
    InvalidRegex "UM0210" "A regular expression is not RE2, or too long."
    InvalidHeaderName "UM0211" "A header name is not a token, or cannot be used here."
    InvalidHeaderValue "UM0212" "A header value has control characters or broken format commands."
    InvalidMatch "UM0213" "A match condition is empty or contradicts itself."
    MissingAction "UM0214" "A rule has neither route nor another action, or an empty one."
    ConflictingActions "UM0215" "A rule or message has fields that exclude one another."
    InvalidDestination "UM0216" "A destination is missing or incomplete."
    InvalidRedirect "UM0217" "A redirect cannot be carried out as written."
    InvalidDirectResponse "UM0218" "A direct response has a bad status or body."
    InvalidRewrite "UM0219" "A rewrite cannot be carried out as written."
    InvalidRetry "UM0220" "A retry policy contradicts itself or names unknown conditions."
    InvalidFault "UM0221" "An injected fault has no effect, or one that does not exist."
    InvalidMirror "UM0222" "A mirror cannot be carried out as written."
    InvalidCors "UM0223" "A CORS policy has values that are not allowed."
    InvalidDelegate "UM0224" "A delegate, or the rule that names it, has fields it must not have."
    InvalidSni "UM0225" "An SNI is missing, malformed or not within the object's hosts."
    EmptyPolicy "UM0226" "A block is there but sets nothing, or a required block is missing."
    InvalidLoadBalancer "UM0227" "Load balancer settings contradict themselves."
    InvalidLocality "UM0228" "Locality settings contradict themselves."
    InvalidConnectionPool "UM0229" "A connection limit is negative or incomplete."
    InvalidOutlierDetection "UM0230" "Outlier detection settings are out of range or contradict themselves."
    InvalidTls "UM0231" "TLS settings contradict themselves or are incomplete."
    InvalidServer "UM0232" "A server of a Gateway is incomplete or contradicts another."
    InvalidAddress "UM0233" "An address, CIDR or endpoint is malformed or not allowed here."
    InvalidServiceEntry "UM0234" "A ServiceEntry's resolution, hosts, ports and endpoints do not fit together."
    InvalidSidecar "UM0235" "A Sidecar's listeners contradict one another or are incomplete."
    InvalidTunnel "UM0236" "Tunnel settings are incomplete or exclude another block."
    InvalidSelector "UM0237" "A selector is malformed or not allowed here."
    InvalidPolicy "UM0238" "An access policy is incomplete, contradicts itself or has values that cannot be."

    Unreachable "UM0301" "A rule can never apply, as earlier ones take all of its requests."
    OverlappingMatch "UM0302" "A condition is covered by an earlier one of the same rule."
    Deprecated "UM0303" "A field is deprecated."
    NoEffect "UM0304" "A setting has no effect."
    LegacyGatewayName "UM0305" "A gateway is named like a DNS name."
    UnknownWord "UM0306" "A label or annotation of Undermesh's does not exist, or has no effect where it stands."
    UnreadValue "UM0307" "A label or annotation of Undermesh's has a value that cannot be read."
    OtherDataPlane "UM0308" "The label names another data plane, so Undermesh leaves the pods alone."
    NotFoundOnNode "UM0309" "A pod in files is enrolled, and they do not say where it is."

    NotEnforced "UM0401" "Undermesh does not act on this field yet; traffic goes as if it were not there."
    Refused "UM0402" "Undermesh does not support this, and acting without it would be unsafe; what it is about gets no traffic."

    UnknownHost "UM0501" "No service of this name is known, so requests to it answer 503."
    UnknownSubset "UM0502" "No DestinationRule defines this subset, so requests to it answer 503."
    UnknownGateway "UM0503" "No Gateway of this name exists."
    UnknownPort "UM0504" "The service does not have this port, so requests to it answer 503."
    UnknownDelegate "UM0505" "No VirtualService of this name exists, or it is not exported to here; the rule is left out."
    ShortNameTaken "UM0506" "A dotted name means a Service here, where Istio would answer 503."
    ShadowedObject "UM0507" "Another object for the same host, mostly an older one, takes its place."
    NoEndpoints "UM0508" "The service or subset has no endpoints, so requests to it answer 503."
    OnlyPort "UM0509" "A destination without port means the service's only one, where Istio's sidecars take the client's."
    UnusedObject "UM0510" "Nothing ever looks the object up: nobody refers to it, or no client can meet it."
    DuplicateSubset "UM0511" "Two DestinationRules for a host define the same subset; one of them counts."
    UnselectedGateway "UM0512" "No known workload has the labels that the Gateway selects."
    PortConflict "UM0513" "Two servers or services want the same port, and nothing tells their connections apart."
    DuplicateServiceEntry "UM0514" "Another ServiceEntry has the same host."
    ImportsNothing "UM0515" "A host of a Sidecar brings nothing into view."
    UnknownNamespace "UM0516" "A namespace of this name is not known."
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_ordered_and_explained() {
        for pair in Code::ALL.windows(2) {
            assert!(pair[0].as_str() < pair[1].as_str(), "{} before {}", pair[0], pair[1]);
        }
        for code in Code::ALL {
            assert!(code.as_str().len() == 6 && code.as_str().starts_with("UM"), "{code}");
            assert!(code.meaning().ends_with('.'), "{code}");
        }
    }
}
