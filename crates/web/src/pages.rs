//! The pages that the server makes itself.

const STYLE: &str = "<style>:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}body{max-width:34rem;\
margin:12vh auto;padding:0 1rem}h1{font-size:1.3rem}code{background:#8883;padding:.1em .35em;border-radius:.3em}\
input,button{font:inherit;padding:.5rem .75rem;border-radius:.5rem;border:1px solid #888}\
input{width:100%;box-sizing:border-box;margin:.25rem 0 1rem}\
button{background:#0f6b66;border-color:#0f6b66;color:#fff}.wrong{color:#c62828}\
@media(prefers-color-scheme:dark){.wrong{color:#ff8a80}}</style>";

fn page(title: &str, head: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{title} · Ouzel</title>\
         {STYLE}{head}</head><body><main>{body}</main></body></html>\n"
    )
}

/// Asks for a token.
pub fn log_in(is_wrong: bool) -> String {
    let note = if is_wrong {
        "<p class=\"wrong\" role=\"alert\">That token is not good, or it was used already.</p>"
    } else {
        ""
    };
    page(
        "Sign in",
        "",
        &format!(
            "<h1>Ouzel’s web console</h1>{note}<p>Open the address that the emulator printed when it started, \
             or paste the token from it. A browser that is signed in can make a link for another one.</p>\
             <form action=\"/\" method=\"get\"><label for=\"token\">Token</label>\
             <input id=\"token\" name=\"token\" required autofocus autocomplete=\"off\" spellcheck=\"false\">\
             <button>Sign in</button></form>"
        ),
    )
}

/// Leads on to the console. A redirection would be the doing of the page that had the link, and the browser would
/// keep the new cookie to itself.
pub fn welcome() -> String {
    page(
        "Welcome",
        "<meta http-equiv=\"refresh\" content=\"0;url=/\">",
        "<h1>Signed in</h1><p><a href=\"/\">Go to the console</a></p>",
    )
}

/// Says how the console is built.
pub fn unbuilt() -> String {
    page(
        "Not built",
        "",
        "<h1>The console’s pages are not in this program</h1><p>They are built with Node.js before it is: \
         <code>cargo xtask web</code>, then <code>cargo build</code>.</p>",
    )
}

/// Says what went wrong.
pub fn problem(status: &str) -> String {
    page(status, "", &format!("<h1>{status}</h1>"))
}
