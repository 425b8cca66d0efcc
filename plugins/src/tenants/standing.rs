//! Whether somebody who is known is let in, now.

use super::{Level, Tenant};
use crate::caller::Caller;
use crate::reply::Refusal;
use crate::when::When;
use http::StatusCode;

/// Why a caller is not let in, if so. Asked for each request: what ends, ends on open connections too.
#[must_use]
pub fn refusal(caller: &Caller) -> Option<Refusal> {
    // The clock is only read for those it matters to.
    let ends = caller.tenants.iter().any(|tenant| tenant.expires.is_some());
    let now = ends.then(When::now);
    caller.tenants.iter().find_map(|tenant| of(tenant, now))
}

fn of(tenant: &Tenant, now: Option<When>) -> Option<Refusal> {
    let (level, name) = (tenant.level, &tenant.name);
    let over = tenant.expires.filter(|expires| now.is_some_and(|now| *expires <= now));
    let (key, code, message) = match (tenant.disabled, over, level) {
        (true, _, Level::Key) => (true, "api_key_disabled", "This API key is disabled.".to_owned()),
        (true, ..) => (false, "tenant_disabled", format!("The {level} '{name}' is disabled.")),
        (_, Some(over), Level::Key) => (true, "api_key_expired", format!("This API key expired on {over}.")),
        (_, Some(over), _) => (false, "tenant_expired", format!("The access of the {level} '{name}' ended on {over}.")),
        (false, None, _) => return None,
    };
    // A key that is of no use is as good as none; a tenant that may not is somebody who may not.
    let status = if key { StatusCode::UNAUTHORIZED } else { StatusCode::FORBIDDEN };
    Some(Refusal::new(status, code, format!("{message} Ask whoever runs this gateway.")))
}
