//! Pulling images, with the progress of all layers summed up.

use std::collections::BTreeMap;

use bollard::{
    Docker,
    models::{CreateImageInfo, ImageInspect},
    query_parameters::CreateImageOptionsBuilder,
};
use futures_util::StreamExt as _;
use muster_executor::Recorder;
use muster_schemas::code::Code;

use crate::{
    failure::{Failure, is_missing},
    image::Image,
    registry::Login,
};

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Policy {
    /// If the host does not have it.
    #[default]
    Missing,
    /// In any case.
    Always,
    /// Not by this job.
    Never,
}

/// Their words.
pub(crate) const POLICIES: [&str; 3] = ["missing", "always", "never"];

impl Policy {
    /// One of [`POLICIES`].
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "missing" => Some(Self::Missing),
            "always" => Some(Self::Always),
            "never" => Some(Self::Never),
            _ => None,
        }
    }
}

/// Most layers of one image that are counted: engines take 127.
const LAYERS_MAX: usize = 256;

/// Has the image here, as the policy says.
pub(crate) async fn provide(
    client: &Docker,
    image: &Image,
    policy: Policy,
    login: Option<&Login<'_>>,
    recorder: &Recorder,
) -> Result<ImageInspect, Failure> {
    if policy != Policy::Always {
        match client.inspect_image(&image.full()).await {
            Ok(found) => return Ok(found),
            Err(error) if is_missing(&error) && policy == Policy::Missing => {}
            Err(error) if is_missing(&error) => {
                return Err(Failure::new(Code::ImageNotFound, format!("`{image}` is not on this host, and `pull` is `never`")));
            }
            Err(error) => return Err(error.into()),
        }
    }
    pull(client, image, None, login, recorder).await
}

/// Pulls it. Dropping this ends the pull, too: the engine sees that nobody listens.
pub(crate) async fn pull(
    client: &Docker,
    image: &Image,
    platform: Option<&str>,
    login: Option<&Login<'_>>,
    recorder: &Recorder,
) -> Result<ImageInspect, Failure> {
    let mut options = CreateImageOptionsBuilder::default().from_image(&image.full());
    if let Some(platform) = platform {
        options = options.platform(platform);
    }
    let credentials = login.and_then(|login| login.credentials_for(image));
    let mut news = client.create_image(Some(options.build()), None, credentials);
    let mut layers = Layers::default();
    recorder.progress(0, &format!("pulling {image}"));
    while let Some(step) = news.next().await {
        layers.take(step.map_err(|error| Failure::of_pull(&image.to_string(), error))?);
        let (percent, done, total) = layers.sum();
        if total > 0 {
            recorder.progress(percent, &format!("pulling {image}: {done} of {total} bytes, {} layers", layers.0.len()));
        }
    }
    let found = client.inspect_image(&image.full()).await.map_err(|error| Failure::of_pull(&image.to_string(), error))?;
    recorder.progress(100, &format!("pulled {image}"));
    Ok(found)
}

/// What of each layer is here, and its size.
#[derive(Debug, Default)]
struct Layers(BTreeMap<String, (u64, u64)>);

impl Layers {
    fn take(&mut self, step: CreateImageInfo) {
        let (Some(id), Some(status)) = (step.id, step.status) else { return };
        if self.0.len() >= LAYERS_MAX && !self.0.contains_key(&id) {
            return;
        }
        let (done, total) = self.0.entry(id).or_default();
        let figures = step.progress_detail.and_then(|detail| Some((detail.current?, detail.total?)));
        match (status.as_str(), figures) {
            ("Downloading", Some((current, all))) => (*done, *total) = (unsigned(current), unsigned(all).max(*total)),
            ("Download complete" | "Pull complete" | "Extracting", _) => *done = *total,
            _ => {}
        }
    }

    /// Percent, bytes here, bytes in all.
    fn sum(&self) -> (u8, u64, u64) {
        let (done, total) =
            self.0.values().fold((0_u64, 0_u64), |sum, layer| (sum.0.saturating_add(layer.0), sum.1.saturating_add(layer.1)));
        let percent = done.saturating_mul(100).checked_div(total).unwrap_or(0).min(99);
        (u8::try_from(percent).unwrap_or(99), done, total)
    }
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::ProgressDetail;

    fn step(id: &str, status: &str, figures: Option<(i64, i64)>) -> CreateImageInfo {
        let progress_detail = figures.map(|(current, total)| ProgressDetail { current: Some(current), total: Some(total) });
        CreateImageInfo { id: Some(id.to_owned()), status: Some(status.to_owned()), progress_detail, ..CreateImageInfo::default() }
    }

    #[test]
    fn the_progress_of_a_pull_is_that_of_all_its_layers() {
        let mut layers = Layers::default();
        assert_eq!(layers.sum(), (0, 0, 0));
        layers.take(step("a", "Downloading", Some((50, 100))));
        layers.take(step("b", "Downloading", Some((0, 300))));
        assert_eq!(layers.sum(), (12, 50, 400));
        layers.take(step("a", "Download complete", None));
        layers.take(step("a", "Extracting", Some((7, 100))));
        layers.take(step("b", "Downloading", Some((150, 300))));
        assert_eq!(layers.sum(), (62, 250, 400));
        layers.take(step("b", "Pull complete", None));
        assert_eq!(layers.sum(), (99, 400, 400));
        layers.take(step("c", "Downloading", Some((-5, i64::MAX))));
        layers.take(step("d", "Downloading", Some((i64::MAX, i64::MAX))));
        layers.take(step("e", "Downloading", Some((i64::MAX, i64::MAX))));
        assert!(layers.sum().0 <= 99);
    }
}
