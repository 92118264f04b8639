//! Chips at an I2C or SPI bus, through the kernel's i2c-dev and spidev. Calls block; a chip is opened for a reading and
//! closed behind it.
//!
//! On the simulated board a chip is a file below the machine's `dev`, `i2c-1/0x48` or `spi0.0`: lines `00: 19 a0`, what is
//! read when these bytes were written. What is written beyond that is appended to the file's neighbour `….written`.

use std::io::Write;

use super::machine::Machine;
use super::{HalError, HalErrorKind};

/// Where a chip is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChipSpec {
    /// At an I2C bus.
    I2c {
        /// N of `/dev/i2c-N`.
        bus: u8,
        /// Seven bits.
        address: u8,
    },
    /// At an SPI bus.
    Spi {
        /// N of `/dev/spidevN.M`.
        bus: u8,
        /// M of it.
        select: u8,
        /// Bits a second.
        speed: u32,
        /// 0 to 3.
        mode: u8,
    },
}

impl std::fmt::Display for ChipSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ChipSpec::I2c { bus, address } => write!(f, "i2c-{bus}/{address:#04x}"),
            ChipSpec::Spi { bus, select, .. } => write!(f, "spi{bus}.{select}"),
        }
    }
}

/// A chip that is open.
pub enum Chip {
    /// Of this machine.
    I2c(rppal::i2c::I2c, String),
    /// Of this machine.
    Spi(rppal::spi::Spi, String),
    /// Of the simulated board: its lines, and where what is written goes.
    File(Vec<(Vec<u8>, Vec<u8>)>, std::path::PathBuf),
}

impl Chip {
    /// Opens it.
    pub fn open(spec: &ChipSpec, machine: &Machine) -> Result<Chip, HalError> {
        if machine.simulated() {
            return Chip::simulated(spec, machine);
        }
        match spec {
            ChipSpec::I2c { bus, address } => {
                let name = spec.to_string();
                let mut i2c = rppal::i2c::I2c::with_bus(*bus).map_err(|e| i2c_error(&name, e))?;
                i2c.set_slave_address(u16::from(*address)).map_err(|e| i2c_error(&name, e))?;
                Ok(Chip::I2c(i2c, name))
            }
            ChipSpec::Spi { bus, select, speed, mode } => {
                use rppal::spi::{Bus, Mode, SlaveSelect};
                let name = spec.to_string();
                let no = |text: String| HalError::new(HalErrorKind::Unsupported, text);
                let bus = match bus {
                    0 => Bus::Spi0,
                    1 => Bus::Spi1,
                    2 => Bus::Spi2,
                    3 => Bus::Spi3,
                    4 => Bus::Spi4,
                    5 => Bus::Spi5,
                    6 => Bus::Spi6,
                    _ => return Err(no(format!("{name}: buses are 0 to 6"))),
                };
                let select = match select {
                    0 => SlaveSelect::Ss0,
                    1 => SlaveSelect::Ss1,
                    2 => SlaveSelect::Ss2,
                    _ => return Err(no(format!("{name}: selects are 0 to 2"))),
                };
                let mode = match mode {
                    0 => Mode::Mode0,
                    1 => Mode::Mode1,
                    2 => Mode::Mode2,
                    _ => Mode::Mode3,
                };
                let spi = rppal::spi::Spi::new(bus, select, *speed, mode).map_err(|e| spi_error(&name, e))?;
                Ok(Chip::Spi(spi, name))
            }
        }
    }

    fn simulated(spec: &ChipSpec, machine: &Machine) -> Result<Chip, HalError> {
        let file = format!("dev/{spec}");
        let text = machine.text(&file).map_err(|e| HalError::new(e.kind, format!("no simulated chip {spec}: {e}")))?;
        let hex = |text: &str| {
            let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
            let pair = |p: &[u8]| std::str::from_utf8(p).ok().and_then(|p| u8::from_str_radix(p, 16).ok());
            digits.chunks(2).filter_map(pair).collect::<Vec<u8>>()
        };
        let lines = text.lines().filter_map(|l| l.split_once(':'));
        let lines = lines.map(|(register, bytes)| (hex(register), hex(bytes))).collect();
        Ok(Chip::File(lines, machine.path(format!("{file}.written"))))
    }

    /// Writes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), HalError> {
        match self {
            Chip::I2c(i2c, name) => i2c.write(bytes).map(drop).map_err(|e| i2c_error(name, e)),
            Chip::Spi(spi, name) => spi.write(bytes).map(drop).map_err(|e| spi_error(name, e)),
            Chip::File(_, written) => {
                let line: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
                let file = std::fs::OpenOptions::new().append(true).create(true).open(&*written);
                file.and_then(|mut file| writeln!(file, "{}", line.join(" ")))
                    .map_err(|e| HalError::new(HalErrorKind::Io, format!("{}: {e}", written.display())))
            }
        }
    }

    /// Writes a register's bytes and reads so many. At SPI the bytes that come in while the register goes out are read
    /// too, in front of the others.
    pub fn read(&mut self, register: &[u8], length: usize) -> Result<Vec<u8>, HalError> {
        match self {
            Chip::I2c(i2c, name) => {
                let mut bytes = vec![0; length];
                if register.is_empty() {
                    i2c.read(&mut bytes).map(drop).map_err(|e| i2c_error(name, e))?;
                } else {
                    i2c.write_read(register, &mut bytes).map_err(|e| i2c_error(name, e))?;
                }
                Ok(bytes)
            }
            Chip::Spi(spi, name) => {
                let mut out = register.to_vec();
                out.resize(length.max(register.len()), 0);
                let mut bytes = vec![0; out.len()];
                spi.transfer(&mut bytes, &out).map_err(|e| spi_error(name, e))?;
                Ok(bytes)
            }
            Chip::File(lines, written) => {
                let line = lines.iter().find(|(r, _)| r == register);
                let mut bytes = line.map(|(_, bytes)| bytes.clone()).ok_or_else(|| {
                    HalError::new(HalErrorKind::Io, format!("{} says nothing of {register:02x?}", written.display()))
                })?;
                bytes.resize(length, 0);
                Ok(bytes)
            }
        }
    }
}

fn i2c_error(name: &str, e: rppal::i2c::Error) -> HalError {
    match e {
        rppal::i2c::Error::Io(e) => bus_error(name, "dtparam=i2c_arm=on", "i2c", &e),
        e => HalError::new(HalErrorKind::Io, format!("{name}: {e}")),
    }
}

fn spi_error(name: &str, e: rppal::spi::Error) -> HalError {
    match e {
        rppal::spi::Error::Io(e) => bus_error(name, "dtparam=spi=on", "spi", &e),
        e => HalError::new(HalErrorKind::Io, format!("{name}: {e}")),
    }
}

fn bus_error(name: &str, switch: &str, group: &str, e: &std::io::Error) -> HalError {
    use std::io::ErrorKind;
    match (e.kind(), e.raw_os_error()) {
        (ErrorKind::NotFound, _) => {
            HalError::new(HalErrorKind::NotFound, format!("{name}: there is no such bus; {switch} in config.txt"))
        }
        (ErrorKind::PermissionDenied, _) => HalError::new(
            HalErrorKind::Permission,
            format!("{name}: not allowed; the user must be in the group {group}"),
        ),
        (_, Some(libc::EREMOTEIO | libc::ENXIO)) => {
            HalError::new(HalErrorKind::Io, format!("{name}: nobody answers at this address; see i2cdetect -y 1"))
        }
        (_, Some(libc::EBUSY)) => {
            HalError::new(HalErrorKind::Busy, format!("{name}: a kernel driver has it; read it by kind: iio or hwmon"))
        }
        _ => HalError::new(HalErrorKind::Io, format!("{name}: {e}")),
    }
}
