/* Made by tools/pieces.py: bit patterns of float64, [power of t][piece]. */

/* Phi(-z), z < 4.21875; error 2^-32.4 */
FA_PIECES fa_normal_tail_pieces = {
    1.7777777777777777, 0.5625, {
        FA_EIGHT(
            0x3fdfffffffffffab, 0x3fd25c5e3c3b4d7a, 0x3fc0ad7da0f9a945, 0x3fa76d04e5c42e0e,
            0x3f890924f21d5a51, 0x3f642297a5416e8d, 0x3f38301be4087489, 0x3f0595675c2e3ccc),
        FA_EIGHT(
            0xbfd9884533d3f711, 0xbfd5cbdc05eae833, 0xbfcb1ec62032a264, 0xbfb8977c8cc92e52,
            0xbfa0402dfd3bed16, 0xbf7f4dda60aed98b, 0xbf55f90f6cf50f80, 0xbf267aca4764b3ab),
        FA_EIGHT(
            0xbdc1979d571fbf72, 0x3fb8855786309286, 0x3fbe829ee454ebc7, 0x3fb4bfd117123749,
            0x3fa24833bcc7b74f, 0x3f8602bd8bb7b6ec, 0x3f628a25043c586d, 0x3f3620df1f70ef42),
        FA_EIGHT(
            0x3fb105837a8d0715, 0x3fa3ddcf328f0ba1, 0xbf8335cc510a596a, 0xbf9e4a98be902433,
            0xbf9601939e96072f, 0xbf8206bf853e0547, 0xbf6306a856fcf7ae, 0xbf3b2b93ddafa34f),
        FA_EIGHT(
            0xbe443a90aec41b9c, 0xbf95ef468688c183, 0xbf91a38409920f99, 0xbf50dbe00b74af70,
            0x3f7923478ea0cee8, 0x3f72033e7e1c04ea, 0x3f59ed2f781da45c, 0x3f370ebf89775632),
        FA_EIGHT(
            0xbf846cf600000000, 0xbf6bf02a00000000, 0x3f75a34b00000000, 0x3f7398e600000000,
            0x3f3e447100000000, 0xbf52e59400000000, 0xbf4795d200000000, 0xbf2c2a3300000000),
        FA_EIGHT(
            0xbea9de6700000000, 0x3f6a034900000000, 0x3f55670700000000, 0xbf53cbba00000000,
            0xbf503ecd00000000, 0xbf07fdde00000000, 0x3f2969c200000000, 0x3f18abcf00000000),
        FA_EIGHT(
            0x3f53829300000000, 0x3f23bd6100000000, 0xbf4b7ac200000000, 0xbf3239c400000000,
            0x3f31464700000000, 0x3f24652a00000000, 0xbee0468600000000, 0xbefca99100000000),
        FA_EIGHT(
            0xbee2eb0f00000000, 0xbf3699d800000000, 0xbef8911b00000000, 0x3f28462a00000000,
            0x3f01468500000000, 0xbf09b1d500000000, 0xbef282ae00000000, 0x3ecb293e00000000),
        FA_EIGHT(
            0xbf1b5e4600000000, 0x3ee1165100000000, 0x3f1598c000000000, 0xbee2648a00000000,
            0xbf012c9200000000, 0x3ea70b0d00000000, 0x3eddd1e000000000, 0x3eb26dda00000000),
    }
};

/* Phi(-z) - z phi(z), z < 4.6875; error 2^-33.9, absolute 2^-41.9 around the zero */
FA_PIECES fa_normal_slope_pieces = {
    1.6, 0.625, {
        FA_EIGHT(
            0x3fdfffffffffffef, 0x3faf2c4f08422255, 0xbfbf66bfdfc6d979, 0xbfb93c66cfd8003d,
            0xbfa341c29fe05870, 0xbf81858ff0db889c, 0xbf543700679eca70, 0xbf1e54a5f6594902),
        FA_EIGHT(
            0xbfe9884533d3e886, 0xbfe0e67965b93478, 0xbfb474ea218b3175, 0x3fbab067387d2cd8,
            0x3fb3121f5af4f3d4, 0x3f9808726b174dd2, 0x3f716bc9c46991e6, 0x3f3f4449ba95ca25),
        FA_EIGHT(
            0xbdf0c29abb79c9e4, 0x3fd7b06a28e44c54, 0x3fd1ceebd4098b3d, 0x3f9ffc517bb8acd3,
            0xbfa93da1fd1e9ed7, 0xbf9be15d528fad48, 0xbf7b3fa3dcb6761d, 0xbf4e352d3c81fd1c),
        FA_EIGHT(
            0x3fd105838242057b, 0x3fb3db6e5be17a73, 0xbfc184e3346e7f98, 0xbfb836491830987e,
            0xbf60740884dd76b0, 0x3f8ffce2aa2210e8, 0x3f78de6a37e1a5f6, 0x3f51f752debfff50),
        FA_EIGHT(
            0xbe89a061c2bd6f9a, 0xbfbe500ac989a97e, 0xbf9fb2883ac23831, 0x3fa6deea3a39b242,
            0x3f95da1c9cb4f5ae, 0xbf632ac37a9e15de, 0xbf6b8f88d1245e18, 0xbf4ce626d19b614b),
        FA_EIGHT(
            0xbfaea33e00000000, 0xbf5498ca00000000, 0x3fa49ac600000000, 0x3f706c5a00000000,
            0xbf87f6ea00000000, 0xbf67a03d00000000, 0x3f4e6dd900000000, 0x3f40072400000000),
        FA_EIGHT(
            0xbeeeb75700000000, 0x3f96db8100000000, 0xbf6965ba00000000, 0xbf847be600000000,
            0x3f5069dc00000000, 0x3f61987d00000000, 0x3f21772f00000000, 0xbf26ebc100000000),
        FA_EIGHT(
            0x3f8393b700000000, 0xbf5f157900000000, 0xbf7809e400000000, 0x3f61bebd00000000,
            0x3f598bb600000000, 0xbf41346200000000, 0xbf2fc7ee00000000, 0x3efa243500000000),
        FA_EIGHT(
            0xbf22d1dc00000000, 0xbf67787b00000000, 0x3f55c35000000000, 0x3f4c775f00000000,
            0xbf44b2bf00000000, 0xbf1a518d00000000, 0x3f199c9100000000, 0x3eeba67500000000),
        FA_EIGHT(
            0xbf504a9000000000, 0x3f3ea81300000000, 0x3f410c6400000000, 0xbf3cda5f00000000,
            0xbed59fef00000000, 0x3f193ebe00000000, 0xbee6eab200000000, 0xbee4231d00000000),
    }
};

/* log(1 + e^-z), z < 9.375; error 2^-34.0 */
FA_PIECES fa_log1pexp_pieces = {
    0.8, 1.25, {
        FA_EIGHT(
            0x3fe62e42fefa393a, 0x3fd01f9b274ec413, 0x3fb4321e1cc9afbc, 0x3f97cda8b5086b91,
            0x3f7b818da244d58a, 0x3f5f991b2f536407, 0x3f421e534d437fa0, 0x3f24c4a8953981f1),
        FA_EIGHT(
            0xbfdffffffffe0746, 0xbfcc81702aaae398, 0xbfb36b71123e8189, 0xbf9787613146bc52,
            0xbf7b69f67d6c8593, 0xbf5f914f9784f702, 0xbf421d0b1571eddc, 0xbf24c43cc24cc80d),
        FA_EIGHT(
            0x3fbffffffe5ab6e8, 0x3fb6284c3ad99bb2, 0x3fa1f2512ee06fdd, 0x3f86fcfa6eff1644,
            0x3f6b3afe209753aa, 0x3f4f81bd88467d4a, 0x3f321a7ae36e8851, 0x3f14c365220d1093),
        FA_EIGHT(
            0x3e40f51b8e7f02af, 0xbf906278f0ed9559, 0xbf844c610c51a9b7, 0xbf6d3e0c1a87690b,
            0xbf51e91ee2285101, 0xbf34ec708383208a, 0xbf181c79a3fe7cd9, 0xbefbacf29f5f2caf),
        FA_EIGHT(
            0xbf75556b99b17bdb, 0xbf32430701a00b92, 0x3f5bba48c2d75d68, 0x3f4a85b7605a4908,
            0x3f316df3b2a5d29d, 0x3f14c31e35444f36, 0x3ef80ed31bd5b6ae, 0x3edba875897fbd3f),
        FA_EIGHT(
            0x3ea0eb0400000000, 0x3f4c3d8800000000, 0xbf149f6600000000, 0xbf21178400000000,
            0xbf0a5ef300000000, 0xbef05a4400000000, 0xbed3293d00000000, 0xbeb6192d00000000),
        FA_EIGHT(
            0x3f36a1c900000000, 0xbf22c9da00000000, 0xbf0a3c2100000000, 0x3ee9516900000000,
            0x3edf36a200000000, 0x3ec51f4400000000, 0x3ea951f400000000, 0x3e8d635300000000),
        FA_EIGHT(
            0x3ed298ce00000000, 0xbefbfa9100000000, 0x3ef1c4f800000000, 0x3ea7b2fb00000000,
            0xbeaaefd000000000, 0xbe96997700000000, 0xbe7c6d0300000000, 0xbe60b62600000000),
        FA_EIGHT(
            0xbf0133a400000000, 0x3eecdb7a00000000, 0xbec1cc1700000000, 0xbea408b700000000,
            0x3e6337ec00000000, 0x3e63941a00000000, 0x3e4b9e6c00000000, 0x3e30b44d00000000),
        FA_EIGHT(
            0x3ed6d28400000000, 0xbeadce8900000000, 0xbe8afdd500000000, 0x3e82344900000000,
            0x3e42042600000000, 0xbe27c4ef00000000, 0xbe16497e00000000, 0xbdfc86af00000000),
    }
};
