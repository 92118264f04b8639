//! The CRC catalogue by name: every algorithm and alias of <https://reveng.sourceforge.io/crc-catalogue/all.htm>.
//!
//! Names are compared by their letters and digits only, so `CRC-16/MODBUS`, `crc16_modbus` and `modbus` are one.
//! Parameters and arithmetic are those of the `crc` crate.

use crc::{Algorithm, Crc};

use crate::codec::nearest;

/// An algorithm of the catalogue, in the narrowest integer that holds it.
#[derive(Clone, Copy)]
enum Entry {
    U8(&'static Algorithm<u8>),
    U16(&'static Algorithm<u16>),
    U32(&'static Algorithm<u32>),
    U64(&'static Algorithm<u64>),
    U128(&'static Algorithm<u128>),
}

/// Writes the table: integer, constant, name and aliases.
macro_rules! catalogue {
    ($($kind:ident { $($constant:ident $($name:literal),+;)* })*) => {
        /// Every algorithm with its names, the catalogue's own name first.
        const CATALOGUE: &[(&[&str], Entry)] = &[$($((&[$($name),+], Entry::$kind(&crc::$constant)),)*)*];
    };
}

catalogue! {
    U8 {
    CRC_3_GSM "CRC-3/GSM";
    CRC_3_ROHC "CRC-3/ROHC";
    CRC_4_G_704 "CRC-4/G-704", "CRC-4/ITU";
    CRC_4_INTERLAKEN "CRC-4/INTERLAKEN";
    CRC_5_EPC_C1G2 "CRC-5/EPC-C1G2", "CRC-5/EPC";
    CRC_5_G_704 "CRC-5/G-704", "CRC-5/ITU";
    CRC_5_USB "CRC-5/USB";
    CRC_6_CDMA2000_A "CRC-6/CDMA2000-A";
    CRC_6_CDMA2000_B "CRC-6/CDMA2000-B";
    CRC_6_DARC "CRC-6/DARC";
    CRC_6_G_704 "CRC-6/G-704", "CRC-6/ITU";
    CRC_6_GSM "CRC-6/GSM";
    CRC_7_MMC "CRC-7/MMC", "CRC-7";
    CRC_7_ROHC "CRC-7/ROHC";
    CRC_7_UMTS "CRC-7/UMTS";
    CRC_8_AUTOSAR "CRC-8/AUTOSAR";
    CRC_8_BLUETOOTH "CRC-8/BLUETOOTH";
    CRC_8_CDMA2000 "CRC-8/CDMA2000";
    CRC_8_DARC "CRC-8/DARC";
    CRC_8_DVB_S2 "CRC-8/DVB-S2";
    CRC_8_GSM_A "CRC-8/GSM-A";
    CRC_8_GSM_B "CRC-8/GSM-B";
    CRC_8_HITAG "CRC-8/HITAG";
    CRC_8_I_432_1 "CRC-8/I-432-1", "CRC-8/ITU";
    CRC_8_I_CODE "CRC-8/I-CODE";
    CRC_8_LTE "CRC-8/LTE";
    CRC_8_MAXIM_DOW "CRC-8/MAXIM-DOW", "CRC-8/MAXIM", "DOW-CRC";
    CRC_8_MIFARE_MAD "CRC-8/MIFARE-MAD";
    CRC_8_NRSC_5 "CRC-8/NRSC-5";
    CRC_8_OPENSAFETY "CRC-8/OPENSAFETY";
    CRC_8_ROHC "CRC-8/ROHC";
    CRC_8_SAE_J1850 "CRC-8/SAE-J1850";
    CRC_8_SMBUS "CRC-8/SMBUS", "CRC-8";
    CRC_8_TECH_3250 "CRC-8/TECH-3250", "CRC-8/AES", "CRC-8/EBU";
    CRC_8_WCDMA "CRC-8/WCDMA";
    } U16 {
    CRC_10_ATM "CRC-10/ATM", "CRC-10", "CRC-10/I-610";
    CRC_10_CDMA2000 "CRC-10/CDMA2000";
    CRC_10_GSM "CRC-10/GSM";
    CRC_11_FLEXRAY "CRC-11/FLEXRAY", "CRC-11";
    CRC_11_UMTS "CRC-11/UMTS";
    CRC_12_CDMA2000 "CRC-12/CDMA2000";
    CRC_12_DECT "CRC-12/DECT", "X-CRC-12";
    CRC_12_GSM "CRC-12/GSM";
    CRC_12_UMTS "CRC-12/UMTS", "CRC-12/3GPP";
    CRC_13_BBC "CRC-13/BBC";
    CRC_14_DARC "CRC-14/DARC";
    CRC_14_GSM "CRC-14/GSM";
    CRC_15_CAN "CRC-15/CAN", "CRC-15";
    CRC_15_MPT1327 "CRC-15/MPT1327";
    CRC_16_ARC "CRC-16/ARC", "ARC", "CRC-16", "CRC-16/LHA", "CRC-IBM", "CRC-16/IBM";
    CRC_16_CDMA2000 "CRC-16/CDMA2000";
    CRC_16_CMS "CRC-16/CMS";
    CRC_16_DDS_110 "CRC-16/DDS-110";
    CRC_16_DECT_R "CRC-16/DECT-R", "R-CRC-16";
    CRC_16_DECT_X "CRC-16/DECT-X", "X-CRC-16";
    CRC_16_DNP "CRC-16/DNP";
    CRC_16_EN_13757 "CRC-16/EN-13757";
    CRC_16_GENIBUS "CRC-16/GENIBUS", "CRC-16/DARC", "CRC-16/EPC", "CRC-16/EPC-C1G2", "CRC-16/I-CODE";
    CRC_16_GSM "CRC-16/GSM";
    CRC_16_IBM_3740 "CRC-16/IBM-3740", "CRC-16/AUTOSAR", "CRC-16/CCITT-FALSE", "CCITT-FALSE";
    CRC_16_IBM_SDLC "CRC-16/IBM-SDLC", "CRC-16/ISO-HDLC", "CRC-16/ISO-IEC-14443-3-B", "CRC-16/X-25", "CRC-B", "X-25";
    CRC_16_ISO_IEC_14443_3_A "CRC-16/ISO-IEC-14443-3-A", "CRC-A";
    CRC_16_KERMIT "CRC-16/KERMIT", "CRC-16/BLUETOOTH", "CRC-16/CCITT", "CRC-16/CCITT-TRUE", "CRC-16/V-41-LSB", "CRC-CCITT", "KERMIT";
    CRC_16_LJ1200 "CRC-16/LJ1200";
    CRC_16_M17 "CRC-16/M17";
    CRC_16_MAXIM_DOW "CRC-16/MAXIM-DOW", "CRC-16/MAXIM";
    CRC_16_MCRF4XX "CRC-16/MCRF4XX";
    CRC_16_MODBUS "CRC-16/MODBUS", "MODBUS";
    CRC_16_NRSC_5 "CRC-16/NRSC-5";
    CRC_16_OPENSAFETY_A "CRC-16/OPENSAFETY-A";
    CRC_16_OPENSAFETY_B "CRC-16/OPENSAFETY-B";
    CRC_16_PROFIBUS "CRC-16/PROFIBUS", "CRC-16/IEC-61158-2";
    CRC_16_RIELLO "CRC-16/RIELLO";
    CRC_16_SPI_FUJITSU "CRC-16/SPI-FUJITSU", "CRC-16/AUG-CCITT";
    CRC_16_T10_DIF "CRC-16/T10-DIF";
    CRC_16_TELEDISK "CRC-16/TELEDISK";
    CRC_16_TMS37157 "CRC-16/TMS37157";
    CRC_16_UMTS "CRC-16/UMTS", "CRC-16/BUYPASS", "CRC-16/VERIFONE";
    CRC_16_USB "CRC-16/USB";
    CRC_16_XMODEM "CRC-16/XMODEM", "CRC-16/ACORN", "CRC-16/LTE", "CRC-16/V-41-MSB", "XMODEM", "ZMODEM";
    } U32 {
    CRC_17_CAN_FD "CRC-17/CAN-FD";
    CRC_21_CAN_FD "CRC-21/CAN-FD";
    CRC_24_BLE "CRC-24/BLE";
    CRC_24_FLEXRAY_A "CRC-24/FLEXRAY-A";
    CRC_24_FLEXRAY_B "CRC-24/FLEXRAY-B";
    CRC_24_INTERLAKEN "CRC-24/INTERLAKEN";
    CRC_24_LTE_A "CRC-24/LTE-A";
    CRC_24_LTE_B "CRC-24/LTE-B";
    CRC_24_OPENPGP "CRC-24/OPENPGP", "CRC-24";
    CRC_24_OS_9 "CRC-24/OS-9";
    CRC_30_CDMA "CRC-30/CDMA";
    CRC_31_PHILIPS "CRC-31/PHILIPS";
    CRC_32_AIXM "CRC-32/AIXM", "CRC-32Q";
    CRC_32_AUTOSAR "CRC-32/AUTOSAR";
    CRC_32_BASE91_D "CRC-32/BASE91-D", "CRC-32D";
    CRC_32_BZIP2 "CRC-32/BZIP2", "CRC-32/AAL5", "CRC-32/DECT-B", "B-CRC-32";
    CRC_32_CD_ROM_EDC "CRC-32/CD-ROM-EDC";
    CRC_32_CKSUM "CRC-32/CKSUM", "CKSUM", "CRC-32/POSIX";
    CRC_32_ISCSI "CRC-32/ISCSI", "CRC-32/BASE91-C", "CRC-32/CASTAGNOLI", "CRC-32/INTERLAKEN", "CRC-32C", "CRC-32/NVME";
    CRC_32_ISO_HDLC "CRC-32/ISO-HDLC", "CRC-32", "CRC-32/ADCCP", "CRC-32/V-42", "CRC-32/XZ", "PKZIP";
    CRC_32_JAMCRC "CRC-32/JAMCRC", "JAMCRC";
    CRC_32_MEF "CRC-32/MEF";
    CRC_32_MPEG_2 "CRC-32/MPEG-2";
    CRC_32_XFER "CRC-32/XFER", "XFER";
    } U64 {
    CRC_40_GSM "CRC-40/GSM";
    CRC_64_ECMA_182 "CRC-64/ECMA-182", "CRC-64";
    CRC_64_GO_ISO "CRC-64/GO-ISO";
    CRC_64_MS "CRC-64/MS";
    CRC_64_NVME "CRC-64/NVME";
    CRC_64_REDIS "CRC-64/REDIS";
    CRC_64_WE "CRC-64/WE";
    CRC_64_XZ "CRC-64/XZ", "CRC-64/GO-ECMA";
    } U128 {
    CRC_82_DARC "CRC-82/DARC";
    }
}

/// A CRC ready to compute.
pub(super) enum Engine {
    U8(Box<Crc<u8>>),
    U16(Box<Crc<u16>>),
    U32(Box<Crc<u32>>),
    U64(Box<Crc<u64>>),
    U128(Box<Crc<u128>>),
}

impl Engine {
    /// By any name of the catalogue; otherwise the nearest name, if one is near.
    pub(super) fn by_name(written: &str) -> Result<Engine, Option<&'static str>> {
        let wanted = plain(written);
        let entry = CATALOGUE.iter().find(|(names, _)| names.iter().any(|name| plain(name) == wanted));
        match entry {
            Some((_, Entry::U8(a))) => Ok(Engine::U8(Box::new(Crc::<u8>::new(a)))),
            Some((_, Entry::U16(a))) => Ok(Engine::U16(Box::new(Crc::<u16>::new(a)))),
            Some((_, Entry::U32(a))) => Ok(Engine::U32(Box::new(Crc::<u32>::new(a)))),
            Some((_, Entry::U64(a))) => Ok(Engine::U64(Box::new(Crc::<u64>::new(a)))),
            Some((_, Entry::U128(a))) => Ok(Engine::U128(Box::new(Crc::<u128>::new(a)))),
            None => Err(nearest(written, CATALOGUE.iter().flat_map(|(names, _)| names.iter().copied()))),
        }
    }

    pub(super) fn compute(&self, data: &[u8]) -> u128 {
        match self {
            Engine::U8(crc) => crc.checksum(data).into(),
            Engine::U16(crc) => crc.checksum(data).into(),
            Engine::U32(crc) => crc.checksum(data).into(),
            Engine::U64(crc) => crc.checksum(data).into(),
            Engine::U128(crc) => crc.checksum(data),
        }
    }

    /// Whole bytes that hold it.
    pub(super) fn width(&self) -> usize {
        let bits = match self {
            Engine::U8(crc) => crc.algorithm.width,
            Engine::U16(crc) => crc.algorithm.width,
            Engine::U32(crc) => crc.algorithm.width,
            Engine::U64(crc) => crc.algorithm.width,
            Engine::U128(crc) => crc.algorithm.width,
        };
        usize::from(bits).div_ceil(8)
    }

    /// Whether the low byte goes first on the wire, as is usual for algorithms that reflect their output.
    pub(super) fn low_first(&self) -> bool {
        match self {
            Engine::U8(crc) => crc.algorithm.refout,
            Engine::U16(crc) => crc.algorithm.refout,
            Engine::U32(crc) => crc.algorithm.refout,
            Engine::U64(crc) => crc.algorithm.refout,
            Engine::U128(crc) => crc.algorithm.refout,
        }
    }
}

fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_of(entry: Entry) -> u128 {
        match entry {
            Entry::U8(a) => a.check.into(),
            Entry::U16(a) => a.check.into(),
            Entry::U32(a) => a.check.into(),
            Entry::U64(a) => a.check.into(),
            Entry::U128(a) => a.check,
        }
    }

    #[test]
    fn every_name_and_alias_finds_its_own_algorithm() {
        for (names, entry) in CATALOGUE {
            for name in *names {
                let Ok(engine) = Engine::by_name(name) else { panic!("{name}") };
                assert_eq!(engine.compute(b"123456789"), check_of(*entry), "{name}");
            }
        }
        assert_eq!(CATALOGUE.len(), 113);
    }

    #[test]
    fn names_are_compared_by_letters_and_digits() {
        for name in ["modbus", "crc16_modbus", "CRC-16/MODBUS", "crc-16 modbus"] {
            assert_eq!(Engine::by_name(name).ok().unwrap().compute(b"123456789"), 0x4b37, "{name}");
        }
    }

    #[test]
    fn a_misspelt_name_gets_a_suggestion() {
        assert_eq!(Engine::by_name("CRC-16/MODBSU").err().flatten(), Some("CRC-16/MODBUS"));
        assert_eq!(Engine::by_name("whatever").err().flatten(), None);
    }
}
