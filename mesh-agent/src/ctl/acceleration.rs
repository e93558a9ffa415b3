//! `acceleration on|off`: the kill switch.

#![forbid(unsafe_code)]

use crate::admin::types::{Redirect, RedirectRequest};
use crate::cli::{OnOff, Output};
use crate::ctl::exit::{CtlError, Exit};
use crate::ctl::{Context, print, print_json};

pub(super) async fn run(context: &Context, to: OnOff) -> Result<Exit, CtlError> {
    let request = RedirectRequest {
        allowed: to == OnOff::On,
    };
    let answer: Redirect = context.client.post("/v1/redirect", &request).await?;
    match context.output {
        Output::Json => print_json(&answer)?,
        Output::Text if answer.allowed => {
            print("acceleration is on: eligible flows of this node may be redirected\n")?;
        }
        Output::Text => {
            print("acceleration is off: every message of this node goes by TCP from now on\n")?;
        }
    }
    let obeyed = answer.allowed == request.allowed;
    Ok(if obeyed { Exit::Fine } else { Exit::Bad })
}
