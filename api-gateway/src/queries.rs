//! stub
pub(crate) async fn start(_: &crate::app::App) -> anyhow::Result<()> {
    Ok(())
}
