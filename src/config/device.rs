//! Devices as people write them: `auto`, `cpu`, `cuda`, `cuda:1`.

use std::str::FromStr;

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// A GPU, where there is one that can, and the model fits; else the CPU.
    Auto,
    /// The CPU.
    #[default]
    Cpu,
    /// An NVIDIA GPU: this one, or the one with most free memory.
    Cuda(Option<u32>),
    /// None: answers are noise, and a pass takes so many milliseconds. For tests of what stands around a model.
    Fake(u32),
}

impl FromStr for Device {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.to_ascii_lowercase();
        match text.as_str() {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(None)),
            "fake" => Ok(Device::Fake(0)),
            _ => {
                let (name, number) = text.split_once(':').ok_or(())?;
                // A sign would be read as part of it.
                let number =
                    number.bytes().all(|b| b.is_ascii_digit()).then(|| number.parse().ok()).flatten().ok_or(())?;
                match name {
                    "cuda" => Ok(Device::Cuda(Some(number))),
                    "fake" => Ok(Device::Fake(number)),
                    _ => Err(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!("auto".parse(), Ok(Device::Auto));
        assert_eq!("CPU".parse(), Ok(Device::Cpu));
        assert_eq!("cuda".parse(), Ok(Device::Cuda(None)));
        assert_eq!("cuda:12".parse(), Ok(Device::Cuda(Some(12))));
        assert_eq!("fake".parse(), Ok(Device::Fake(0)));
        assert_eq!("fake:20".parse(), Ok(Device::Fake(20)));
        for wrong in
            ["", "gpu", "fake:", "fake:+1", "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "cuda:99999999999", "cpu:0"]
        {
            assert_eq!(wrong.parse::<Device>(), Err(()), "{wrong}");
        }
    }
}
