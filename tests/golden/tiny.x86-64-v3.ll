; ModuleID = "tiny"
target triple = "x86_64-unknown-linux-gnu"
target datalayout = "e-m:e-p270:32:32-p271:32:32-p272:64:64-i64:64-i128:128-f80:128-n8:16:32:64-S128"

define internal void @k0_mat_mul_add_bias_relu(ptr %a0, ptr %a1, ptr %a2, ptr %a3, i64 %a4, i64 %a5, ptr %a6, ptr noalias %a7) nounwind {
block0:
  %v1 = getelementptr i8, ptr %a7, i64 0
  %v4 = icmp slt i64 %a4, %a5
  br i1 %v4, label %block2, label %block3
block2:
  %v5 = phi i64 [ %a4, %block0 ], [ %v77, %block66 ]
  %v6 = mul i64 0, 4
  %v7 = mul i64 %v6, 3
  %v8 = getelementptr float, ptr %a1, i64 %v7
  br label %block9
block3:
  ret void
block9:
  %v10 = getelementptr float, ptr %v8, i64 0
  %v11 = mul i64 0, 4
  %v12 = getelementptr float, ptr %v1, i64 %v11
  %v13 = call <4 x float> @llvm.masked.load.v4f32.p0(ptr %v10, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>, <4 x float> splat (float 0x0))
  %v14 = getelementptr float, ptr %v10, i64 3
  %v15 = call <4 x float> @llvm.masked.load.v4f32.p0(ptr %v14, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>, <4 x float> splat (float 0x0))
  %v16 = getelementptr float, ptr %v10, i64 6
  %v17 = call <4 x float> @llvm.masked.load.v4f32.p0(ptr %v16, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>, <4 x float> splat (float 0x0))
  %v18 = getelementptr float, ptr %v10, i64 9
  %v19 = call <4 x float> @llvm.masked.load.v4f32.p0(ptr %v18, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>, <4 x float> splat (float 0x0))
  %v20 = shufflevector <4 x float> %v13, <4 x float> %v15, <4 x i32> <i32 0, i32 4, i32 2, i32 6>
  %v21 = shufflevector <4 x float> %v13, <4 x float> %v15, <4 x i32> <i32 1, i32 5, i32 3, i32 7>
  %v22 = shufflevector <4 x float> %v17, <4 x float> %v19, <4 x i32> <i32 0, i32 4, i32 2, i32 6>
  %v23 = shufflevector <4 x float> %v17, <4 x float> %v19, <4 x i32> <i32 1, i32 5, i32 3, i32 7>
  %v24 = shufflevector <4 x float> %v20, <4 x float> %v22, <4 x i32> <i32 0, i32 1, i32 4, i32 5>
  %v25 = shufflevector <4 x float> %v20, <4 x float> %v22, <4 x i32> <i32 2, i32 3, i32 6, i32 7>
  %v26 = shufflevector <4 x float> %v21, <4 x float> %v23, <4 x i32> <i32 0, i32 1, i32 4, i32 5>
  %v27 = shufflevector <4 x float> %v21, <4 x float> %v23, <4 x i32> <i32 2, i32 3, i32 6, i32 7>
  store <4 x float> %v24, ptr %v12, align 4
  %v28 = getelementptr float, ptr %v12, i64 4
  store <4 x float> %v26, ptr %v28, align 4
  %v29 = getelementptr float, ptr %v12, i64 8
  store <4 x float> %v25, ptr %v29, align 4
  %v30 = getelementptr float, ptr %v12, i64 12
  store <4 x float> %v27, ptr %v30, align 4
  %v31 = mul i64 0, 3
  %v32 = getelementptr float, ptr %a0, i64 %v31
  br label %block33
block33:
  %v35 = phi i64 [ 0, %block9 ], [ %v52, %block33 ]
  %v36 = phi <4 x float> [ splat (float 0x0), %block9 ], [ %v45, %block33 ]
  %v37 = phi <4 x float> [ splat (float 0x0), %block9 ], [ %v50, %block33 ]
  %v38 = getelementptr float, ptr %v32, i64 %v35
  %v39 = mul i64 %v35, 4
  %v40 = getelementptr float, ptr %v1, i64 %v39
  %v41 = load <4 x float>, ptr %v40, align 4
  %v42 = load float, ptr %v38, align 4
  %v43 = insertelement <4 x float> undef, float %v42, i32 0
  %v44 = shufflevector <4 x float> %v43, <4 x float> undef, <4 x i32> zeroinitializer
  %v45 = call <4 x float> @llvm.fma.v4f32(<4 x float> %v44, <4 x float> %v41, <4 x float> %v36)
  %v46 = getelementptr float, ptr %v38, i64 3
  %v47 = load float, ptr %v46, align 4
  %v48 = insertelement <4 x float> undef, float %v47, i32 0
  %v49 = shufflevector <4 x float> %v48, <4 x float> undef, <4 x i32> zeroinitializer
  %v50 = call <4 x float> @llvm.fma.v4f32(<4 x float> %v49, <4 x float> %v41, <4 x float> %v37)
  %v51 = add i64 %v35, 1
  %v52 = call i64 @llvm.expect.i64(i64 %v51, i64 0)
  %v53 = icmp slt i64 %v52, 3
  br i1 %v53, label %block33, label %block34
block34:
  %v54 = add i64 0, 0
  br label %block55
block55:
  %v56 = add i64 %v6, 0
  %v57 = getelementptr float, ptr %a2, i64 %v56
  %v58 = load <4 x float>, ptr %v57, align 4
  %v59 = fadd <4 x float> %v45, %v58
  %v60 = fcmp olt <4 x float> %v59, splat (float 0x0)
  %v61 = select <4 x i1> %v60, <4 x float> splat (float 0x0), <4 x float> %v59
  %v62 = mul i64 %v54, 4
  %v63 = getelementptr float, ptr %a3, i64 %v62
  %v64 = getelementptr float, ptr %v63, i64 %v56
  store <4 x float> %v61, ptr %v64, align 4
  %v65 = add i64 0, 1
  br label %block66
block66:
  %v67 = add i64 %v6, 0
  %v68 = getelementptr float, ptr %a2, i64 %v67
  %v69 = load <4 x float>, ptr %v68, align 4
  %v70 = fadd <4 x float> %v50, %v69
  %v71 = fcmp olt <4 x float> %v70, splat (float 0x0)
  %v72 = select <4 x i1> %v71, <4 x float> splat (float 0x0), <4 x float> %v70
  %v73 = mul i64 %v65, 4
  %v74 = getelementptr float, ptr %a3, i64 %v73
  %v75 = getelementptr float, ptr %v74, i64 %v67
  store <4 x float> %v72, ptr %v75, align 4
  %v76 = add i64 %v5, 1
  %v77 = call i64 @llvm.expect.i64(i64 %v76, i64 0)
  %v78 = icmp slt i64 %v77, %a5
  br i1 %v78, label %block2, label %block3
}

declare <4 x float> @llvm.masked.load.v4f32.p0(ptr, i32, <4 x i1>, <4 x float>)

declare <4 x float> @llvm.fma.v4f32(<4 x float>, <4 x float>, <4 x float>)

declare i64 @llvm.expect.i64(i64, i64)

define internal void @k1_softmax_log_loss(ptr %a0, ptr %a1, ptr %a2, i64 %a3, i64 %a4, ptr %a5, ptr noalias %a6) nounwind {
block0:
  %v3 = icmp slt i64 %a3, %a4
  br i1 %v3, label %block1, label %block2
block1:
  %v4 = phi i64 [ %a3, %block0 ], [ %v171, %block40 ]
  %v5 = getelementptr float, ptr %a1, i64 %v4
  %v6 = load float, ptr %v5, align 4
  %v7 = call i64 @llvm.fptosi.sat.i64.f32(float %v6)
  %v8 = icmp sle i64 0, %v7
  %v9 = icmp slt i64 %v7, 4
  %v10 = and i1 %v8, %v9
  %v11 = xor i1 %v10, 1
  br i1 %v11, label %block12, label %block13
block2:
  ret void
block12:
  %v14 = getelementptr i64, ptr %a5, i64 1
  store i64 %v7, ptr %v14, align 8
  store i64 1, ptr %a5, align 8
  br label %block13
block13:
  %v15 = icmp slt i64 %v7, 0
  %v16 = select i1 %v15, i64 0, i64 %v7
  %v17 = icmp sgt i64 %v16, 3
  %v18 = select i1 %v17, i64 3, i64 %v16
  %v20 = mul i64 %v4, 4
  %v21 = getelementptr float, ptr %a0, i64 %v20
  br label %block19
block19:
  %v22 = getelementptr float, ptr %v21, i64 0
  %v23 = call <8 x float> @llvm.masked.load.v8f32.p0(ptr %v22, i32 4, <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>, <8 x float> splat (float 0x0))
  %v24 = fcmp ogt <8 x float> %v23, splat (float 0xfff0000000000000)
  %v25 = select <8 x i1> %v24, <8 x float> %v23, <8 x float> splat (float 0xfff0000000000000)
  %v26 = select <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>, <8 x float> %v25, <8 x float> splat (float 0xfff0000000000000)
  %v27 = shufflevector <8 x float> %v26, <8 x float> undef, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %v28 = shufflevector <8 x float> %v26, <8 x float> undef, <4 x i32> <i32 4, i32 5, i32 6, i32 7>
  %v29 = fcmp ogt <4 x float> %v28, %v27
  %v30 = select <4 x i1> %v29, <4 x float> %v28, <4 x float> %v27
  %v31 = shufflevector <4 x float> %v30, <4 x float> undef, <2 x i32> <i32 0, i32 1>
  %v32 = shufflevector <4 x float> %v30, <4 x float> undef, <2 x i32> <i32 2, i32 3>
  %v33 = fcmp ogt <2 x float> %v32, %v31
  %v34 = select <2 x i1> %v33, <2 x float> %v32, <2 x float> %v31
  %v35 = shufflevector <2 x float> %v34, <2 x float> undef, <1 x i32> <i32 0>
  %v36 = shufflevector <2 x float> %v34, <2 x float> undef, <1 x i32> <i32 1>
  %v37 = fcmp ogt <1 x float> %v36, %v35
  %v38 = select <1 x i1> %v37, <1 x float> %v36, <1 x float> %v35
  %v39 = extractelement <1 x float> %v38, i32 0
  %v49 = insertelement <8 x float> undef, float %v39, i32 0
  %v50 = shufflevector <8 x float> %v49, <8 x float> undef, <8 x i32> zeroinitializer
  br label %block40
block40:
  %v41 = add i64 0, 0
  %v42 = sub i64 %v18, %v41
  %v43 = trunc i64 %v42 to i32
  %v44 = insertelement <8 x i32> undef, i32 %v43, i32 0
  %v45 = shufflevector <8 x i32> %v44, <8 x i32> undef, <8 x i32> zeroinitializer
  %v46 = icmp eq <8 x i32> <i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7>, %v45
  %v47 = getelementptr float, ptr %v21, i64 0
  %v48 = call <8 x float> @llvm.masked.load.v8f32.p0(ptr %v47, i32 4, <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>, <8 x float> splat (float 0x0))
  %v51 = fsub <8 x float> %v48, %v50
  %v52 = fcmp olt <8 x float> %v51, splat (float 0xc05a000000000000)
  %v53 = select <8 x i1> %v52, <8 x float> splat (float 0xc05a000000000000), <8 x float> %v51
  %v54 = fmul <8 x float> %v53, splat (float 0x3ff7154760000000)
  %v55 = fadd <8 x float> %v54, splat (float 0x4168000000000000)
  %v56 = fsub <8 x float> %v55, splat (float 0x4168000000000000)
  %v57 = bitcast <8 x float> %v55 to <8 x i32>
  %v58 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v56, <8 x float> splat (float 0xbfe62e4000000000), <8 x float> %v53)
  %v59 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v56, <8 x float> splat (float 0xbeb7f7d1c0000000), <8 x float> %v58)
  %v60 = call <8 x float> @llvm.fma.v8f32(<8 x float> splat (float 0x3f56cd7980000000), <8 x float> %v59, <8 x float> splat (float 0x3f8122c520000000))
  %v61 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v60, <8 x float> %v59, <8 x float> splat (float 0x3fa5555380000000))
  %v62 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v61, <8 x float> %v59, <8 x float> splat (float 0x3fc5554aa0000000))
  %v63 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v62, <8 x float> %v59, <8 x float> splat (float 0x3fe0000000000000))
  %v64 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v63, <8 x float> %v59, <8 x float> splat (float 0x3ff0000000000000))
  %v65 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v64, <8 x float> %v59, <8 x float> splat (float 0x3ff0000000000000))
  %v66 = sub <8 x i32> %v57, splat (i32 1262485250)
  %v67 = lshr <8 x i32> %v66, splat (i32 1)
  %v68 = sub <8 x i32> %v66, %v67
  %v69 = shl <8 x i32> %v67, splat (i32 23)
  %v70 = bitcast <8 x i32> %v69 to <8 x float>
  %v71 = fmul <8 x float> %v65, %v70
  %v72 = shl <8 x i32> %v68, splat (i32 23)
  %v73 = bitcast <8 x i32> %v72 to <8 x float>
  %v74 = fmul <8 x float> %v71, %v73
  %v75 = select <8 x i1> %v46, <8 x float> splat (float 0x0), <8 x float> %v74
  %v76 = select <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>, <8 x float> %v75, <8 x float> splat (float 0x0)
  %v77 = shufflevector <8 x float> %v76, <8 x float> undef, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %v78 = shufflevector <8 x float> %v76, <8 x float> undef, <4 x i32> <i32 4, i32 5, i32 6, i32 7>
  %v79 = fadd <4 x float> %v77, %v78
  %v80 = shufflevector <4 x float> %v79, <4 x float> undef, <2 x i32> <i32 0, i32 1>
  %v81 = shufflevector <4 x float> %v79, <4 x float> undef, <2 x i32> <i32 2, i32 3>
  %v82 = fadd <2 x float> %v80, %v81
  %v83 = shufflevector <2 x float> %v82, <2 x float> undef, <1 x i32> <i32 0>
  %v84 = shufflevector <2 x float> %v82, <2 x float> undef, <1 x i32> <i32 1>
  %v85 = fadd <1 x float> %v83, %v84
  %v86 = extractelement <1 x float> %v85, i32 0
  %v87 = getelementptr float, ptr %v21, i64 %v18
  %v88 = load float, ptr %v87, align 4
  %v89 = fsub float %v88, %v39
  %v90 = fcmp ogt float %v89, 0x4056400000000000
  %v91 = select i1 %v90, float 0x4056400000000000, float %v89
  %v92 = fcmp olt float %v91, 0xc05a000000000000
  %v93 = select i1 %v92, float 0xc05a000000000000, float %v91
  %v94 = fmul float %v93, 0x3ff7154760000000
  %v95 = fadd float %v94, 0x4168000000000000
  %v96 = fsub float %v95, 0x4168000000000000
  %v97 = bitcast float %v95 to i32
  %v98 = call float @llvm.fma.f32(float %v96, float 0xbfe62e4000000000, float %v93)
  %v99 = call float @llvm.fma.f32(float %v96, float 0xbeb7f7d1c0000000, float %v98)
  %v100 = call float @llvm.fma.f32(float 0x3f56cd7980000000, float %v99, float 0x3f8122c520000000)
  %v101 = call float @llvm.fma.f32(float %v100, float %v99, float 0x3fa5555380000000)
  %v102 = call float @llvm.fma.f32(float %v101, float %v99, float 0x3fc5554aa0000000)
  %v103 = call float @llvm.fma.f32(float %v102, float %v99, float 0x3fe0000000000000)
  %v104 = call float @llvm.fma.f32(float %v103, float %v99, float 0x3ff0000000000000)
  %v105 = call float @llvm.fma.f32(float %v104, float %v99, float 0x3ff0000000000000)
  %v106 = sub i32 %v97, 1262485250
  %v107 = lshr i32 %v106, 1
  %v108 = sub i32 %v106, %v107
  %v109 = shl i32 %v107, 23
  %v110 = bitcast i32 %v109 to float
  %v111 = fmul float %v105, %v110
  %v112 = shl i32 %v108, 23
  %v113 = bitcast i32 %v112 to float
  %v114 = fmul float %v111, %v113
  %v115 = getelementptr float, ptr %a2, i64 %v4
  %v116 = fsub float %v39, %v88
  %v117 = fsub float %v114, 0x3ff0000000000000
  %v118 = fadd float %v86, %v117
  %v119 = fadd float 0x3ff0000000000000, %v118
  %v120 = fsub float %v119, 0x3ff0000000000000
  %v121 = fsub float %v119, %v120
  %v122 = fsub float 0x3ff0000000000000, %v121
  %v123 = fsub float %v118, %v120
  %v124 = fadd float %v122, %v123
  %v125 = fdiv float %v124, %v119
  %v126 = fcmp olt float %v119, 0x3810000000000000
  %v127 = fmul float %v119, 0x4170000000000000
  %v128 = select i1 %v126, float %v127, float %v119
  %v129 = bitcast float %v128 to i32
  %v130 = add i32 %v129, 4913933
  %v131 = lshr i32 %v130, 23
  %v132 = and i32 %v130, 8388607
  %v133 = add i32 %v131, 1262485504
  %v134 = bitcast i32 %v133 to float
  %v135 = select i1 %v126, float 0x41680012e0000000, float 0x4168000fe0000000
  %v136 = fsub float %v134, %v135
  %v137 = add i32 %v132, 1060439283
  %v138 = bitcast i32 %v137 to float
  %v139 = fsub float %v138, 0x3ff0000000000000
  %v140 = fmul float %v139, %v139
  %v141 = fmul float %v140, 0x3fe0000000000000
  %v142 = call float @llvm.fma.f32(float 0xbfb3833520000000, float %v139, float 0x3fc0528040000000)
  %v143 = call float @llvm.fma.f32(float %v142, float %v139, float 0xbfc0d72960000000)
  %v144 = call float @llvm.fma.f32(float %v143, float %v139, float 0x3fc22d5b00000000)
  %v145 = call float @llvm.fma.f32(float %v144, float %v139, float 0xbfc54723a0000000)
  %v146 = call float @llvm.fma.f32(float %v145, float %v139, float 0x3fc99a0360000000)
  %v147 = call float @llvm.fma.f32(float %v146, float %v139, float 0xbfd0002280000000)
  %v148 = call float @llvm.fma.f32(float %v147, float %v139, float 0x3fd5555540000000)
  %v149 = fmul float %v140, %v139
  %v150 = fmul float %v148, %v149
  %v151 = call float @llvm.fma.f32(float %v136, float 0x3eb7f7d1c0000000, float %v150)
  %v152 = fadd float %v151, %v125
  %v153 = fsub float %v141, %v152
  %v154 = fsub float %v139, %v153
  %v155 = call float @llvm.fma.f32(float %v136, float 0x3fe62e4000000000, float %v154)
  %v156 = fcmp ogt float %v119, 0x0
  %v157 = fcmp olt float %v119, 0x7ff0000000000000
  %v158 = and i1 %v156, %v157
  %v159 = fcmp olt float %v119, 0x0
  %v160 = select i1 %v159, float 0x7ff8000000000000, float %v119
  %v161 = fcmp oeq float %v119, 0x0
  %v162 = select i1 %v161, float 0xfff0000000000000, float %v160
  %v163 = select i1 %v158, float %v155, float %v162
  %v164 = call float @llvm.fabs.f32(float %v118)
  %v165 = fcmp olt float %v164, 0x3e60000000000000
  %v166 = select i1 %v165, float %v118, float %v163
  %v167 = fadd float %v116, %v166
  %v168 = fcmp olt float 0x4055d58a00000000, %v167
  %v169 = select i1 %v168, float 0x4055d58a00000000, float %v167
  store float %v169, ptr %v115, align 4
  %v170 = add i64 %v4, 1
  %v171 = call i64 @llvm.expect.i64(i64 %v170, i64 0)
  %v172 = icmp slt i64 %v171, %a4
  br i1 %v172, label %block1, label %block2
}

declare i64 @llvm.fptosi.sat.i64.f32(float)

declare <8 x float> @llvm.masked.load.v8f32.p0(ptr, i32, <8 x i1>, <8 x float>)

declare <8 x float> @llvm.fma.v8f32(<8 x float>, <8 x float>, <8 x float>)

declare float @llvm.fma.f32(float, float, float)

declare float @llvm.fabs.f32(float)

define internal void @k2_sum_times(ptr %a0, ptr %a1, i64 %a2, i64 %a3, ptr %a4, ptr noalias %a5) nounwind {
block0:
  %v1 = icmp slt i64 %a2, %a3
  br i1 %v1, label %block2, label %block3
block2:
  %v4 = getelementptr float, ptr %a0, i64 0
  %v5 = load float, ptr %v4, align 4
  %v6 = getelementptr float, ptr %a0, i64 1
  %v7 = load float, ptr %v6, align 4
  %v8 = fadd float %v5, %v7
  %v9 = fmul float %v8, 0x3fe0000000000000
  store float %v9, ptr %a1, align 4
  br label %block3
block3:
  ret void
}

define internal void @k3_copy(ptr %a0, ptr %a1, i64 %a2, i64 %a3, ptr %a4, ptr noalias %a5) nounwind {
block0:
  %v1 = icmp slt i64 %a2, %a3
  %v4 = load float, ptr %a0, align 4
  br i1 %v1, label %block2, label %block3
block2:
  store float %v4, ptr %a1, align 4
  br label %block3
block3:
  ret void
}

define internal void @k4_fill_softmax_log_loss_gradient(ptr %a0, ptr %a1, ptr %a2, i64 %a3, i64 %a4, ptr %a5, ptr noalias %a6) nounwind {
block0:
  %v1 = getelementptr i8, ptr %a6, i64 0
  %v4 = icmp slt i64 %a3, %a4
  br i1 %v4, label %block2, label %block3
block2:
  %v5 = phi i64 [ %a3, %block0 ], [ %v145, %block124 ]
  %v6 = getelementptr float, ptr %a1, i64 %v5
  %v7 = load float, ptr %v6, align 4
  %v8 = call i64 @llvm.fptosi.sat.i64.f32(float %v7)
  %v9 = icmp sle i64 0, %v8
  %v10 = icmp slt i64 %v8, 4
  %v11 = and i1 %v9, %v10
  %v12 = xor i1 %v11, 1
  br i1 %v12, label %block13, label %block14
block3:
  ret void
block13:
  %v15 = getelementptr i64, ptr %a5, i64 1
  store i64 %v8, ptr %v15, align 8
  store i64 1, ptr %a5, align 8
  br label %block14
block14:
  %v16 = icmp slt i64 %v8, 0
  %v17 = select i1 %v16, i64 0, i64 %v8
  %v18 = icmp sgt i64 %v17, 3
  %v19 = select i1 %v18, i64 3, i64 %v17
  %v21 = mul i64 %v5, 4
  %v22 = getelementptr float, ptr %a0, i64 %v21
  br label %block20
block20:
  %v23 = getelementptr float, ptr %v22, i64 0
  %v24 = call <8 x float> @llvm.masked.load.v8f32.p0(ptr %v23, i32 4, <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>, <8 x float> splat (float 0x0))
  %v25 = fcmp ogt <8 x float> %v24, splat (float 0xfff0000000000000)
  %v26 = select <8 x i1> %v25, <8 x float> %v24, <8 x float> splat (float 0xfff0000000000000)
  %v27 = select <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>, <8 x float> %v26, <8 x float> splat (float 0xfff0000000000000)
  %v28 = shufflevector <8 x float> %v27, <8 x float> undef, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %v29 = shufflevector <8 x float> %v27, <8 x float> undef, <4 x i32> <i32 4, i32 5, i32 6, i32 7>
  %v30 = fcmp ogt <4 x float> %v29, %v28
  %v31 = select <4 x i1> %v30, <4 x float> %v29, <4 x float> %v28
  %v32 = shufflevector <4 x float> %v31, <4 x float> undef, <2 x i32> <i32 0, i32 1>
  %v33 = shufflevector <4 x float> %v31, <4 x float> undef, <2 x i32> <i32 2, i32 3>
  %v34 = fcmp ogt <2 x float> %v33, %v32
  %v35 = select <2 x i1> %v34, <2 x float> %v33, <2 x float> %v32
  %v36 = shufflevector <2 x float> %v35, <2 x float> undef, <1 x i32> <i32 0>
  %v37 = shufflevector <2 x float> %v35, <2 x float> undef, <1 x i32> <i32 1>
  %v38 = fcmp ogt <1 x float> %v37, %v36
  %v39 = select <1 x i1> %v38, <1 x float> %v37, <1 x float> %v36
  %v40 = extractelement <1 x float> %v39, i32 0
  %v41 = getelementptr float, ptr %v22, i64 %v19
  %v42 = load float, ptr %v41, align 4
  %v47 = insertelement <8 x float> undef, float %v40, i32 0
  %v48 = shufflevector <8 x float> %v47, <8 x float> undef, <8 x i32> zeroinitializer
  br label %block43
block43:
  %v44 = getelementptr float, ptr %v22, i64 0
  %v45 = getelementptr float, ptr %v44, i64 4
  call void @llvm.prefetch.p0(ptr %v45, i32 0, i32 3, i32 1)
  %v46 = call <8 x float> @llvm.masked.load.v8f32.p0(ptr %v44, i32 4, <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>, <8 x float> splat (float 0x0))
  %v49 = fsub <8 x float> %v46, %v48
  %v50 = fcmp olt <8 x float> %v49, splat (float 0xc05a000000000000)
  %v51 = select <8 x i1> %v50, <8 x float> splat (float 0xc05a000000000000), <8 x float> %v49
  %v52 = fmul <8 x float> %v51, splat (float 0x3ff7154760000000)
  %v53 = fadd <8 x float> %v52, splat (float 0x4168000000000000)
  %v54 = fsub <8 x float> %v53, splat (float 0x4168000000000000)
  %v55 = bitcast <8 x float> %v53 to <8 x i32>
  %v56 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v54, <8 x float> splat (float 0xbfe62e4000000000), <8 x float> %v51)
  %v57 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v54, <8 x float> splat (float 0xbeb7f7d1c0000000), <8 x float> %v56)
  %v58 = call <8 x float> @llvm.fma.v8f32(<8 x float> splat (float 0x3f56cd7980000000), <8 x float> %v57, <8 x float> splat (float 0x3f8122c520000000))
  %v59 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v58, <8 x float> %v57, <8 x float> splat (float 0x3fa5555380000000))
  %v60 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v59, <8 x float> %v57, <8 x float> splat (float 0x3fc5554aa0000000))
  %v61 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v60, <8 x float> %v57, <8 x float> splat (float 0x3fe0000000000000))
  %v62 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v61, <8 x float> %v57, <8 x float> splat (float 0x3ff0000000000000))
  %v63 = call <8 x float> @llvm.fma.v8f32(<8 x float> %v62, <8 x float> %v57, <8 x float> splat (float 0x3ff0000000000000))
  %v64 = sub <8 x i32> %v55, splat (i32 1262485250)
  %v65 = lshr <8 x i32> %v64, splat (i32 1)
  %v66 = sub <8 x i32> %v64, %v65
  %v67 = shl <8 x i32> %v65, splat (i32 23)
  %v68 = bitcast <8 x i32> %v67 to <8 x float>
  %v69 = fmul <8 x float> %v63, %v68
  %v70 = shl <8 x i32> %v66, splat (i32 23)
  %v71 = bitcast <8 x i32> %v70 to <8 x float>
  %v72 = fmul <8 x float> %v69, %v71
  %v73 = mul i64 0, 1
  %v74 = getelementptr float, ptr %v1, i64 %v73
  store <8 x float> %v72, ptr %v74, align 4
  %v75 = mul i64 0, 1
  %v76 = getelementptr float, ptr %v1, i64 %v75
  %v77 = load <8 x float>, ptr %v76, align 4
  %v78 = add i64 0, 0
  %v79 = sub i64 %v19, %v78
  %v80 = trunc i64 %v79 to i32
  %v81 = insertelement <8 x i32> undef, i32 %v80, i32 0
  %v82 = shufflevector <8 x i32> %v81, <8 x i32> undef, <8 x i32> zeroinitializer
  %v83 = icmp eq <8 x i32> <i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7>, %v82
  %v84 = select <8 x i1> %v83, <8 x float> splat (float 0x0), <8 x float> %v72
  %v85 = select <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>, <8 x float> %v84, <8 x float> splat (float 0x0)
  %v86 = shufflevector <8 x float> %v85, <8 x float> undef, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %v87 = shufflevector <8 x float> %v85, <8 x float> undef, <4 x i32> <i32 4, i32 5, i32 6, i32 7>
  %v88 = fadd <4 x float> %v86, %v87
  %v89 = shufflevector <4 x float> %v88, <4 x float> undef, <2 x i32> <i32 0, i32 1>
  %v90 = shufflevector <4 x float> %v88, <4 x float> undef, <2 x i32> <i32 2, i32 3>
  %v91 = fadd <2 x float> %v89, %v90
  %v92 = shufflevector <2 x float> %v91, <2 x float> undef, <1 x i32> <i32 0>
  %v93 = shufflevector <2 x float> %v91, <2 x float> undef, <1 x i32> <i32 1>
  %v94 = fadd <1 x float> %v92, %v93
  %v95 = extractelement <1 x float> %v94, i32 0
  %v96 = fsub float %v42, %v40
  %v97 = fcmp ogt float %v96, 0x4056400000000000
  %v98 = select i1 %v97, float 0x4056400000000000, float %v96
  %v99 = fcmp olt float %v98, 0xc05a000000000000
  %v100 = select i1 %v99, float 0xc05a000000000000, float %v98
  %v101 = fmul float %v100, 0x3ff7154760000000
  %v102 = fadd float %v101, 0x4168000000000000
  %v103 = fsub float %v102, 0x4168000000000000
  %v104 = bitcast float %v102 to i32
  %v105 = call float @llvm.fma.f32(float %v103, float 0xbfe62e4000000000, float %v100)
  %v106 = call float @llvm.fma.f32(float %v103, float 0xbeb7f7d1c0000000, float %v105)
  %v107 = call float @llvm.fma.f32(float 0x3f56cd7980000000, float %v106, float 0x3f8122c520000000)
  %v108 = call float @llvm.fma.f32(float %v107, float %v106, float 0x3fa5555380000000)
  %v109 = call float @llvm.fma.f32(float %v108, float %v106, float 0x3fc5554aa0000000)
  %v110 = call float @llvm.fma.f32(float %v109, float %v106, float 0x3fe0000000000000)
  %v111 = call float @llvm.fma.f32(float %v110, float %v106, float 0x3ff0000000000000)
  %v112 = call float @llvm.fma.f32(float %v111, float %v106, float 0x3ff0000000000000)
  %v113 = sub i32 %v104, 1262485250
  %v114 = lshr i32 %v113, 1
  %v115 = sub i32 %v113, %v114
  %v116 = shl i32 %v114, 23
  %v117 = bitcast i32 %v116 to float
  %v118 = fmul float %v112, %v117
  %v119 = shl i32 %v115, 23
  %v120 = bitcast i32 %v119 to float
  %v121 = fmul float %v118, %v120
  %v122 = fadd float %v95, %v121
  %v123 = fdiv float 0x3fe0000000000000, %v122
  %v128 = mul i64 %v5, 4
  %v129 = getelementptr float, ptr %a2, i64 %v128
  %v131 = insertelement <8 x float> undef, float %v123, i32 0
  %v132 = shufflevector <8 x float> %v131, <8 x float> undef, <8 x i32> zeroinitializer
  %v139 = fneg float %v95
  %v140 = insertelement <8 x float> undef, float %v139, i32 0
  %v141 = shufflevector <8 x float> %v140, <8 x float> undef, <8 x i32> zeroinitializer
  br label %block124
block124:
  %v125 = mul i64 0, 1
  %v126 = getelementptr float, ptr %v1, i64 %v125
  %v127 = load <8 x float>, ptr %v126, align 4
  %v130 = getelementptr float, ptr %v129, i64 0
  %v133 = add i64 0, 0
  %v134 = sub i64 %v19, %v133
  %v135 = trunc i64 %v134 to i32
  %v136 = insertelement <8 x i32> undef, i32 %v135, i32 0
  %v137 = shufflevector <8 x i32> %v136, <8 x i32> undef, <8 x i32> zeroinitializer
  %v138 = icmp eq <8 x i32> <i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7>, %v137
  %v142 = select <8 x i1> %v138, <8 x float> %v141, <8 x float> %v127
  %v143 = fmul <8 x float> %v132, %v142
  call void @llvm.masked.store.v8f32.p0(<8 x float> %v143, ptr %v130, i32 4, <8 x i1> <i1 1, i1 1, i1 1, i1 1, i1 0, i1 0, i1 0, i1 0>)
  %v144 = add i64 %v5, 1
  %v145 = call i64 @llvm.expect.i64(i64 %v144, i64 0)
  %v146 = icmp slt i64 %v145, %a4
  br i1 %v146, label %block2, label %block3
}

declare void @llvm.prefetch.p0(ptr, i32, i32, i32)

declare void @llvm.masked.store.v8f32.p0(<8 x float>, ptr, i32, <8 x i1>)

define internal void @k5_map_gradient(ptr %a0, ptr %a1, ptr %a2, i64 %a3, i64 %a4, ptr %a5, ptr noalias %a6) nounwind {
block0:
  %v3 = icmp slt i64 %a3, %a4
  br i1 %v3, label %block1, label %block2
block1:
  %v4 = phi i64 [ %a3, %block0 ], [ %v14, %block1 ]
  %v5 = getelementptr float, ptr %a2, i64 %v4
  %v6 = getelementptr float, ptr %a0, i64 %v4
  %v7 = load <8 x float>, ptr %v6, align 4
  %v8 = getelementptr float, ptr %a1, i64 %v4
  %v9 = load <8 x float>, ptr %v8, align 4
  %v10 = fcmp olt <8 x float> splat (float 0x0), %v9
  %v11 = select <8 x i1> %v10, <8 x float> splat (float 0x3ff0000000000000), <8 x float> splat (float 0x0)
  %v12 = fmul <8 x float> %v7, %v11
  store <8 x float> %v12, ptr %v5, align 4
  %v13 = add i64 %v4, 8
  %v14 = call i64 @llvm.expect.i64(i64 %v13, i64 0)
  %v15 = icmp slt i64 %v14, %a4
  br i1 %v15, label %block1, label %block2
block2:
  ret void
}

define internal void @k6_sum(ptr %a0, ptr %a1, i64 %a2, i64 %a3, ptr %a4, ptr noalias %a5) nounwind {
block0:
  %v1 = sub i64 %a3, %a2
  %v2 = and i64 %v1, -8
  %v3 = add i64 %a2, %v2
  %v6 = icmp slt i64 %a2, %v3
  br i1 %v6, label %block4, label %block5
block4:
  %v7 = phi i64 [ %a2, %block0 ], [ %v16, %block4 ]
  %v8 = getelementptr float, ptr %a0, i64 %v7
  %v9 = getelementptr float, ptr %v8, i64 0
  %v10 = load <8 x float>, ptr %v9, align 4
  %v11 = getelementptr float, ptr %v8, i64 4
  %v12 = load <8 x float>, ptr %v11, align 4
  %v13 = fadd <8 x float> %v10, %v12
  %v14 = getelementptr float, ptr %a1, i64 %v7
  store <8 x float> %v13, ptr %v14, align 4
  %v15 = add i64 %v7, 8
  %v16 = call i64 @llvm.expect.i64(i64 %v15, i64 0)
  %v17 = icmp slt i64 %v16, %v3
  br i1 %v17, label %block4, label %block5
block5:
  %v18 = sub i64 %a3, %v3
  %v19 = icmp sgt i64 %v18, 0
  br i1 %v19, label %block20, label %block21
block20:
  %v22 = trunc i64 %v18 to i32
  %v23 = insertelement <8 x i32> undef, i32 %v22, i32 0
  %v24 = shufflevector <8 x i32> %v23, <8 x i32> undef, <8 x i32> zeroinitializer
  %v25 = icmp slt <8 x i32> <i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7>, %v24
  %v26 = getelementptr float, ptr %a0, i64 %v3
  %v27 = getelementptr float, ptr %v26, i64 0
  %v28 = call <8 x float> @llvm.masked.load.v8f32.p0(ptr %v27, i32 4, <8 x i1> %v25, <8 x float> splat (float 0x0))
  %v29 = select <8 x i1> %v25, <8 x float> %v28, <8 x float> splat (float 0x0)
  %v30 = getelementptr float, ptr %v26, i64 4
  %v31 = call <8 x float> @llvm.masked.load.v8f32.p0(ptr %v30, i32 4, <8 x i1> %v25, <8 x float> splat (float 0x0))
  %v32 = fadd <8 x float> %v29, %v31
  %v33 = select <8 x i1> %v25, <8 x float> %v32, <8 x float> %v29
  %v34 = getelementptr float, ptr %a1, i64 %v3
  call void @llvm.masked.store.v8f32.p0(<8 x float> %v33, ptr %v34, i32 4, <8 x i1> %v25)
  br label %block21
block21:
  ret void
}

define internal void @k7_mat_mul(ptr %a0, ptr %a1, ptr %a2, i64 %a3, i64 %a4, ptr %a5, ptr noalias %a6) nounwind {
block0:
  %v3 = icmp slt i64 %a3, %a4
  br i1 %v3, label %block1, label %block2
block1:
  %v4 = phi i64 [ %a3, %block0 ], [ %v43, %block37 ]
  %v5 = mul i64 0, 4
  %v6 = getelementptr float, ptr %a1, i64 %v5
  %v7 = mul i64 0, 4
  %v8 = getelementptr float, ptr %a0, i64 %v7
  br label %block9
block2:
  ret void
block9:
  %v11 = phi i64 [ 0, %block1 ], [ %v28, %block9 ]
  %v12 = phi <4 x float> [ splat (float 0x0), %block1 ], [ %v21, %block9 ]
  %v13 = phi <4 x float> [ splat (float 0x0), %block1 ], [ %v26, %block9 ]
  %v14 = getelementptr float, ptr %v8, i64 %v11
  %v15 = mul i64 %v11, 3
  %v16 = getelementptr float, ptr %v6, i64 %v15
  %v17 = call <4 x float> @llvm.masked.load.v4f32.p0(ptr %v16, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>, <4 x float> splat (float 0x0))
  %v18 = load float, ptr %v14, align 4
  %v19 = insertelement <4 x float> undef, float %v18, i32 0
  %v20 = shufflevector <4 x float> %v19, <4 x float> undef, <4 x i32> zeroinitializer
  %v21 = call <4 x float> @llvm.fma.v4f32(<4 x float> %v20, <4 x float> %v17, <4 x float> %v12)
  %v22 = getelementptr float, ptr %v14, i64 4
  %v23 = load float, ptr %v22, align 4
  %v24 = insertelement <4 x float> undef, float %v23, i32 0
  %v25 = shufflevector <4 x float> %v24, <4 x float> undef, <4 x i32> zeroinitializer
  %v26 = call <4 x float> @llvm.fma.v4f32(<4 x float> %v25, <4 x float> %v17, <4 x float> %v13)
  %v27 = add i64 %v11, 1
  %v28 = call i64 @llvm.expect.i64(i64 %v27, i64 0)
  %v29 = icmp slt i64 %v28, 4
  br i1 %v29, label %block9, label %block10
block10:
  %v30 = add i64 0, 0
  br label %block31
block31:
  %v32 = add i64 %v5, 0
  %v33 = mul i64 %v30, 3
  %v34 = getelementptr float, ptr %a2, i64 %v33
  %v35 = getelementptr float, ptr %v34, i64 %v32
  call void @llvm.masked.store.v4f32.p0(<4 x float> %v21, ptr %v35, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>)
  %v36 = add i64 0, 1
  br label %block37
block37:
  %v38 = add i64 %v5, 0
  %v39 = mul i64 %v36, 3
  %v40 = getelementptr float, ptr %a2, i64 %v39
  %v41 = getelementptr float, ptr %v40, i64 %v38
  call void @llvm.masked.store.v4f32.p0(<4 x float> %v26, ptr %v41, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>)
  %v42 = add i64 %v4, 1
  %v43 = call i64 @llvm.expect.i64(i64 %v42, i64 0)
  %v44 = icmp slt i64 %v43, %a4
  br i1 %v44, label %block1, label %block2
}

declare void @llvm.masked.store.v4f32.p0(<4 x float>, ptr, i32, <4 x i1>)

define internal void @k8_mat_mul(ptr %a0, ptr %a1, ptr %a2, i64 %a3, i64 %a4, ptr %a5, ptr noalias %a6) nounwind {
block0:
  %v3 = icmp slt i64 %a3, %a4
  br i1 %v3, label %block1, label %block2
block1:
  %v4 = phi i64 [ %a3, %block0 ], [ %v67, %block61 ]
  %v5 = mul i64 0, 4
  %v6 = getelementptr float, ptr %a1, i64 %v5
  %v7 = getelementptr float, ptr %a0, i64 0
  br label %block8
block2:
  ret void
block8:
  %v10 = phi i64 [ 0, %block1 ], [ %v40, %block8 ]
  %v11 = phi <4 x float> [ splat (float 0x0), %block1 ], [ %v23, %block8 ]
  %v12 = phi <4 x float> [ splat (float 0x0), %block1 ], [ %v28, %block8 ]
  %v13 = phi <4 x float> [ splat (float 0x0), %block1 ], [ %v33, %block8 ]
  %v14 = phi <4 x float> [ splat (float 0x0), %block1 ], [ %v38, %block8 ]
  %v15 = mul i64 %v10, 4
  %v16 = getelementptr float, ptr %v7, i64 %v15
  %v17 = mul i64 %v10, 3
  %v18 = getelementptr float, ptr %v6, i64 %v17
  %v19 = call <4 x float> @llvm.masked.load.v4f32.p0(ptr %v18, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>, <4 x float> splat (float 0x0))
  %v20 = load float, ptr %v16, align 4
  %v21 = insertelement <4 x float> undef, float %v20, i32 0
  %v22 = shufflevector <4 x float> %v21, <4 x float> undef, <4 x i32> zeroinitializer
  %v23 = call <4 x float> @llvm.fma.v4f32(<4 x float> %v22, <4 x float> %v19, <4 x float> %v11)
  %v24 = getelementptr float, ptr %v16, i64 1
  %v25 = load float, ptr %v24, align 4
  %v26 = insertelement <4 x float> undef, float %v25, i32 0
  %v27 = shufflevector <4 x float> %v26, <4 x float> undef, <4 x i32> zeroinitializer
  %v28 = call <4 x float> @llvm.fma.v4f32(<4 x float> %v27, <4 x float> %v19, <4 x float> %v12)
  %v29 = getelementptr float, ptr %v16, i64 2
  %v30 = load float, ptr %v29, align 4
  %v31 = insertelement <4 x float> undef, float %v30, i32 0
  %v32 = shufflevector <4 x float> %v31, <4 x float> undef, <4 x i32> zeroinitializer
  %v33 = call <4 x float> @llvm.fma.v4f32(<4 x float> %v32, <4 x float> %v19, <4 x float> %v13)
  %v34 = getelementptr float, ptr %v16, i64 3
  %v35 = load float, ptr %v34, align 4
  %v36 = insertelement <4 x float> undef, float %v35, i32 0
  %v37 = shufflevector <4 x float> %v36, <4 x float> undef, <4 x i32> zeroinitializer
  %v38 = call <4 x float> @llvm.fma.v4f32(<4 x float> %v37, <4 x float> %v19, <4 x float> %v14)
  %v39 = add i64 %v10, 1
  %v40 = call i64 @llvm.expect.i64(i64 %v39, i64 0)
  %v41 = icmp slt i64 %v40, 2
  br i1 %v41, label %block8, label %block9
block9:
  %v42 = add i64 0, 0
  br label %block43
block43:
  %v44 = add i64 %v5, 0
  %v45 = mul i64 %v42, 3
  %v46 = getelementptr float, ptr %a2, i64 %v45
  %v47 = getelementptr float, ptr %v46, i64 %v44
  call void @llvm.masked.store.v4f32.p0(<4 x float> %v23, ptr %v47, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>)
  %v48 = add i64 0, 1
  br label %block49
block49:
  %v50 = add i64 %v5, 0
  %v51 = mul i64 %v48, 3
  %v52 = getelementptr float, ptr %a2, i64 %v51
  %v53 = getelementptr float, ptr %v52, i64 %v50
  call void @llvm.masked.store.v4f32.p0(<4 x float> %v28, ptr %v53, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>)
  %v54 = add i64 0, 2
  br label %block55
block55:
  %v56 = add i64 %v5, 0
  %v57 = mul i64 %v54, 3
  %v58 = getelementptr float, ptr %a2, i64 %v57
  %v59 = getelementptr float, ptr %v58, i64 %v56
  call void @llvm.masked.store.v4f32.p0(<4 x float> %v33, ptr %v59, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>)
  %v60 = add i64 0, 3
  br label %block61
block61:
  %v62 = add i64 %v5, 0
  %v63 = mul i64 %v60, 3
  %v64 = getelementptr float, ptr %a2, i64 %v63
  %v65 = getelementptr float, ptr %v64, i64 %v62
  call void @llvm.masked.store.v4f32.p0(<4 x float> %v38, ptr %v65, i32 4, <4 x i1> <i1 1, i1 1, i1 1, i1 0>)
  %v66 = add i64 %v4, 1
  %v67 = call i64 @llvm.expect.i64(i64 %v66, i64 0)
  %v68 = icmp slt i64 %v67, %a4
  br i1 %v68, label %block1, label %block2
}


%team = type { ptr, ptr, i64, i64, i64, ptr, ptr, i64, i64, [7 x i64], i64, [7 x i64] }

; What a thread works for, its number there, its state (0: there is none, 1: it lingers, 2: it was
; called), its handle (null: none to join), and whether it is to linger.
%member = type { ptr, i64, i64, ptr, i64, [3 x i64] }
; Whether a call has the crew, the process it lives in, and its members, each on its own cache line.
%crew = type { i64, i64, [6 x i64], [256 x %member] }
@graphc_crew = internal global %crew zeroinitializer, align 64

declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_attr_init(ptr)
declare i32 @pthread_attr_setstacksize(ptr, i64)
declare i32 @pthread_attr_destroy(ptr)
declare i32 @pthread_join(ptr, ptr)
declare i32 @getpid()
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)

define internal ptr @graphc_thread(ptr %member) nounwind {
entry:
  %scratch = alloca [64 x i8], align 512
  %number_place = getelementptr %member, ptr %member, i32 0, i32 1
  %state_place = getelementptr %member, ptr %member, i32 0, i32 2
  %lingers_place = getelementptr %member, ptr %member, i32 0, i32 4
  br label %serve
serve:
  %team = load ptr, ptr %member
  %number = load i64, ptr %number_place
  %lingers = load i64, ptr %lingers_place
  %size_place = getelementptr %team, ptr %team, i32 0, i32 4
  br label %wait
wait:
  %spins = phi i64 [ 0, %serve ], [ %more, %again ]
  %size = load atomic i64, ptr %size_place acquire, align 8
  %unknown = icmp eq i64 %size, 0
  br i1 %unknown, label %again, label %walk
again:
  call void @graphc_pause(i64 %spins)
  %more = add i64 %spins, 1
  br label %wait
walk:
  call void @graphc_walk(ptr %team, i64 %number, ptr %scratch)
  %stays = icmp ne i64 %lingers, 0
  br i1 %stays, label %linger, label %gone
linger:
  store atomic i64 1, ptr %state_place release, align 8
  br label %idle
idle:
  %waited = phi i64 [ 0, %linger ], [ %waited_more, %wait_more ], [ %waited, %leave ]
  %state = load atomic i64, ptr %state_place acquire, align 8
  switch i64 %state, label %serve [ i64 0, label %gone
                                    i64 1, label %still_idle ]
still_idle:
  %long = icmp ugt i64 %waited, 4000
  br i1 %long, label %leave, label %wait_more
wait_more:
  call void @llvm.x86.sse2.pause()
  %waited_more = add i64 %waited, 1
  br label %idle
leave:
  %left = cmpxchg ptr %state_place, i64 1, i64 0 acq_rel monotonic
  %is_gone = extractvalue { i64, i1 } %left, 1
  br i1 %is_gone, label %gone, label %idle
gone:
  ret ptr null
}

; Make a thread, with stack enough for what it works in.
define internal i32 @graphc_make(ptr %handle_place, ptr %member) nounwind {
entry:
  %kind = alloca [256 x i8], align 16
  %refused = call i32 @pthread_attr_init(ptr %kind)
  %none = icmp ne i32 %refused, 0
  br i1 %none, label %failed, label %size
size:
  %ignored = call i32 @pthread_attr_setstacksize(ptr %kind, i64 589824)
  %status = call i32 @pthread_create(ptr %handle_place, ptr %kind, ptr @graphc_thread, ptr %member)
  %destroyed = call i32 @pthread_attr_destroy(ptr %kind)
  ret i32 %status
failed:
  ret i32 %refused
}

; Whether a member of the crew could be called to work, its fields being set; else it is made.
define internal i1 @graphc_call(ptr %member) nounwind {
entry:
  %state_place = getelementptr %member, ptr %member, i32 0, i32 2
  %handle_place = getelementptr %member, ptr %member, i32 0, i32 3
  %swapped = cmpxchg ptr %state_place, i64 1, i64 2 acq_rel monotonic
  %called = extractvalue { i64, i1 } %swapped, 1
  br i1 %called, label %yes, label %other
other:
  call void @graphc_join(ptr %member)
  store atomic i64 2, ptr %state_place monotonic, align 8
  %status = call i32 @graphc_make(ptr %handle_place, ptr %member)
  %failed = icmp ne i32 %status, 0
  br i1 %failed, label %no, label %yes
yes:
  ret i1 true
no:
  store ptr null, ptr %handle_place
  store atomic i64 0, ptr %state_place monotonic, align 8
  ret i1 false
}

; Wait for the end of a thread that is about to end, if there is one.
define internal void @graphc_join(ptr %member) nounwind {
entry:
  %handle_place = getelementptr %member, ptr %member, i32 0, i32 3
  %handle = load ptr, ptr %handle_place
  %none = icmp eq ptr %handle, null
  br i1 %none, label %done, label %join
join:
  %ignored = call i32 @pthread_join(ptr %handle, ptr null)
  store ptr null, ptr %handle_place
  br label %done
done:
  ret void
}

; Wait until a member that lingers has done its part of a call.
define internal void @graphc_await(ptr %member) nounwind {
entry:
  %state_place = getelementptr %member, ptr %member, i32 0, i32 2
  br label %wait
wait:
  %spins = phi i64 [ 0, %entry ], [ %more, %again ]
  %state = load atomic i64, ptr %state_place acquire, align 8
  %works = icmp eq i64 %state, 2
  br i1 %works, label %again, label %done
again:
  call void @graphc_pause(i64 %spins)
  %more = add i64 %spins, 1
  br label %wait
done:
  ret void
}

; The members for a call: the crew, or where another call has that, the caller's own. In a process
; that was forked the crew is forgotten: its threads are in the other one.
define internal ptr @graphc_members(ptr %own) nounwind {
entry:
  %before = atomicrmw xchg ptr @graphc_crew, i64 1 acquire
  %free = icmp eq i64 %before, 0
  br i1 %free, label %crew, label %apart
crew:
  %members = getelementptr %crew, ptr @graphc_crew, i32 0, i32 3
  %process_place = getelementptr %crew, ptr @graphc_crew, i32 0, i32 1
  %process = load i64, ptr %process_place
  %id = call i32 @getpid()
  %here = sext i32 %id to i64
  %same = icmp eq i64 %process, %here
  br i1 %same, label %known, label %forget
forget:
  call void @llvm.memset.p0.i64(ptr %members, i8 0, i64 16384, i1 false)
  store i64 %here, ptr %process_place
  br label %known
known:
  ret ptr %members
apart:
  call void @llvm.memset.p0.i64(ptr %own, i8 0, i64 16384, i1 false)
  ret ptr %own
}

; Send the crew away, unless a call has it.
define void @graphc_rest() nounwind {
entry:
  %before = atomicrmw xchg ptr @graphc_crew, i64 1 acquire
  %free = icmp eq i64 %before, 0
  br i1 %free, label %crew, label %done
crew:
  %process_place = getelementptr %crew, ptr @graphc_crew, i32 0, i32 1
  %process = load i64, ptr %process_place
  %id = call i32 @getpid()
  %here = sext i32 %id to i64
  %same = icmp eq i64 %process, %here
  br i1 %same, label %each, label %give_back
each:
  %j = phi i64 [ 1, %crew ], [ %next, %each ]
  %member = getelementptr %crew, ptr @graphc_crew, i32 0, i32 3, i64 %j
  %state_place = getelementptr %member, ptr %member, i32 0, i32 2
  %told = cmpxchg ptr %state_place, i64 1, i64 0 acq_rel monotonic
  call void @graphc_join(ptr %member)
  %next = add i64 %j, 1
  %more = icmp slt i64 %next, 256
  br i1 %more, label %each, label %give_back
give_back:
  store atomic i64 0, ptr @graphc_crew release, align 8
  br label %done
done:
  ret void
}

; Each counter on its own cache line.
%claim = type { i64, [7 x i64] }

; A piece of a step's units to run now, first and behind the last; { 0, 0 }: there are none left.
; least: no more than so many units are not cut.
define internal { i64, i64 } @graphc_claim(ptr %claims, i64 %thread, i64 %threads, i64 %step,
  i64 %units, i64 %grain, i64 %least) nounwind {
entry:
  %alone = icmp eq i64 %threads, 1
  %halvings = select i1 %alone, i64 0, i64 5
  %few = icmp ult i64 %threads, 8
  %reach = select i1 %few, i64 %threads, i64 8
  %numbered = add i64 %step, 1
  %fresh = shl i64 %numbered, 8
  br label %victim
victim:
  %k = phi i64 [ 0, %entry ], [ %k_next, %exhausted ]
  %far = add i64 %thread, %k
  %v = urem i64 %far, %threads
  %low_product = mul i64 %v, %units
  %low = udiv i64 %low_product, %threads
  %high_product = add i64 %low_product, %units
  %high = udiv i64 %high_product, %threads
  %count = sub i64 %high, %low
  %place = getelementptr %claim, ptr %claims, i64 %v
  %first = load atomic i64, ptr %place monotonic, align 8
  br label %look
look:
  ; Piece p begins where count / 2^p units are left; the last one has all of them.
  %seen = phi i64 [ %first, %victim ], [ %now, %take ]
  %is_old = icmp ult i64 %seen, %fresh
  %old = select i1 %is_old, i64 %fresh, i64 %seen
  %piece = sub i64 %old, %fresh
  %is_there = icmp ule i64 %piece, %halvings
  %shift = select i1 %is_there, i64 %piece, i64 0
  %left = lshr i64 %count, %shift
  %is_first = icmp eq i64 %shift, 0
  %shorter = sub i64 %shift, 1
  %shift_before = select i1 %is_first, i64 0, i64 %shorter
  %left_before = lshr i64 %count, %shift_before
  %was_cut = icmp ugt i64 %left_before, %least
  %some = icmp ne i64 %left, 0
  %exists = select i1 %is_first, i1 %some, i1 %was_cut
  %free = and i1 %is_there, %exists
  br i1 %free, label %take, label %exhausted
take:
  %more = add i64 %old, 1
  %swapped = cmpxchg ptr %place, i64 %seen, i64 %more monotonic monotonic
  %now = extractvalue { i64, i1 } %swapped, 0
  %mine = extractvalue { i64, i1 } %swapped, 1
  br i1 %mine, label %found, label %look
found:
  %half = lshr i64 %left, 1
  %from = sub i64 %high, %left
  %to = sub i64 %high, %half
  %from_over = urem i64 %from, %grain
  %to_over = urem i64 %to, %grain
  %from_even = sub i64 %from, %from_over
  %to_even = sub i64 %to, %to_over
  %is_uncut = icmp ule i64 %left, %least
  %is_halved = icmp eq i64 %piece, %halvings
  %is_last = or i1 %is_uncut, %is_halved
  %begin = select i1 %is_first, i64 %low, i64 %from_even
  %end = select i1 %is_last, i64 %high, i64 %to_even
  %begun = insertvalue { i64, i64 } undef, i64 %begin, 0
  %whole = insertvalue { i64, i64 } %begun, i64 %end, 1
  ret { i64, i64 } %whole
exhausted:
  %k_next = add i64 %k, 1
  %is_more = icmp ult i64 %k_next, %reach
  br i1 %is_more, label %victim, label %none
none:
  ret { i64, i64 } zeroinitializer
}

; clock_gettime or the like, the clock it is to read, room for the times, and how many of them each
; thread has: two struct timespec a step.
%timer = type { ptr, i32, ptr, i64 }

declare i32 @sched_yield()
declare void @llvm.x86.sse2.pause()

; Wait a moment; after many moments, let somebody else run.
define internal void @graphc_pause(i64 %spins) nounwind {
entry:
  call void @llvm.x86.sse2.pause()
  %long = icmp ugt i64 %spins, 1000
  br i1 %long, label %yield, label %done
yield:
  %ignored = call i32 @sched_yield()
  br label %done
done:
  ret void
}

define internal void @graphc_barrier(ptr %team, i64 %size) nounwind {
entry:
  %arrived = getelementptr %team, ptr %team, i32 0, i32 8
  %behind = getelementptr %team, ptr %team, i32 0, i32 10
  %now = load atomic i64, ptr %behind monotonic, align 8
  %before = atomicrmw add ptr %arrived, i64 1 acq_rel
  %count = add i64 %before, 1
  %last = icmp eq i64 %count, %size
  br i1 %last, label %release, label %wait
release:
  store atomic i64 0, ptr %arrived monotonic, align 8
  %next = add i64 %now, 1
  store atomic i64 %next, ptr %behind release, align 8
  ret void
wait:
  %spins = phi i64 [ 0, %entry ], [ %more, %again ]
  %seen = load atomic i64, ptr %behind acquire, align 8
  %still = icmp eq i64 %seen, %now
  br i1 %still, label %again, label %done
again:
  call void @graphc_pause(i64 %spins)
  %more = add i64 %spins, 1
  br label %wait
done:
  ret void
}

; Note when a thread begins a step (side 0), or ends it (side 1).
define internal void @graphc_note(ptr %timer, i64 %thread, i64 %step, i64 %side) nounwind {
entry:
  %clock = load ptr, ptr %timer
  %kind_place = getelementptr %timer, ptr %timer, i32 0, i32 1
  %kind = load i32, ptr %kind_place
  %times_place = getelementptr %timer, ptr %timer, i32 0, i32 2
  %times = load ptr, ptr %times_place
  %room_place = getelementptr %timer, ptr %timer, i32 0, i32 3
  %room = load i64, ptr %room_place
  %before = mul i64 %thread, %room
  %twice = mul i64 %step, 2
  %number = add i64 %twice, %side
  %place = add i64 %before, %number
  %time = getelementptr [2 x i64], ptr %times, i64 %place
  %ignored = call i32 %clock(i32 %kind, ptr %time)
  ret void
}

define internal void @graphc_walk(ptr %team, i64 %thread, ptr %scratch) nounwind {
entry:
  %slots = load ptr, ptr %team
  %error_place = getelementptr %team, ptr %team, i32 0, i32 1
  %error = load ptr, ptr %error_place
  %first_place = getelementptr %team, ptr %team, i32 0, i32 2
  %first = load i64, ptr %first_place
  %last_place = getelementptr %team, ptr %team, i32 0, i32 3
  %last = load i64, ptr %last_place
  %size_place = getelementptr %team, ptr %team, i32 0, i32 4
  %size = load i64, ptr %size_place
  %together = icmp ugt i64 %size, 1
  %timer_place = getelementptr %team, ptr %team, i32 0, i32 5
  %timer = load ptr, ptr %timer_place
  %timed = icmp ne ptr %timer, null
  %claims_place = getelementptr %team, ptr %team, i32 0, i32 6
  %claims = load ptr, ptr %claims_place
  %some = icmp slt i64 %first, %last
  br i1 %some, label %step, label %done
step:
  %s = phi i64 [ %first, %entry ], [ %following, %behind ]
  %flag_place = getelementptr i8, ptr @graphc_waits, i64 %s
  %flag = load i8, ptr %flag_place
  %flagged = icmp ne i8 %flag, 0
  %waits = and i1 %flagged, %together
  br i1 %waits, label %barrier, label %ready
barrier:
  call void @graphc_barrier(ptr %team, i64 %size)
  br label %ready
ready:
  %may_stop = icmp eq i64 %s, 4
  %begun = icmp ne i64 %s, %first
  %looks = and i1 %may_stop, %begun
  br i1 %looks, label %look, label %go
look:
  %found = load i64, ptr %error
  %refused = icmp ne i64 %found, 0
  br i1 %together, label %seen, label %decide
seen:
  call void @graphc_barrier(ptr %team, i64 %size)
  br label %decide
decide:
  br i1 %refused, label %done, label %go
go:
  br i1 %timed, label %note, label %run
note:
  call void @graphc_note(ptr %timer, i64 %thread, i64 %s, i64 0)
  br label %run
run:
  %function_place = getelementptr ptr, ptr @graphc_steps, i64 %s
  %function = load ptr, ptr %function_place
  call void %function(ptr %slots, i64 %thread, i64 %size, ptr %error, ptr %scratch, ptr %claims)
  br i1 %timed, label %note_end, label %behind
note_end:
  call void @graphc_note(ptr %timer, i64 %thread, i64 %s, i64 1)
  br label %behind
behind:
  %following = add i64 %s, 1
  %more = icmp slt i64 %following, %last
  br i1 %more, label %step, label %done
done:
  ret void
}

define internal i32 @graphc_run(ptr %slots, i64 %first, i64 %last, i32 %wanted, ptr %error,
  ptr %timer) nounwind {
entry:
  %team = alloca %team, align 64
  %own = alloca [256 x %member], align 64
  %claims = alloca [256 x %claim], align 64
  store ptr %slots, ptr %team
  %error_place = getelementptr %team, ptr %team, i32 0, i32 1
  store ptr %error, ptr %error_place
  %first_place = getelementptr %team, ptr %team, i32 0, i32 2
  store i64 %first, ptr %first_place
  %last_place = getelementptr %team, ptr %team, i32 0, i32 3
  store i64 %last, ptr %last_place
  %size_place = getelementptr %team, ptr %team, i32 0, i32 4
  store i64 0, ptr %size_place
  %timer_place = getelementptr %team, ptr %team, i32 0, i32 5
  store ptr %timer, ptr %timer_place
  %claims_place = getelementptr %team, ptr %team, i32 0, i32 6
  store ptr %claims, ptr %claims_place
  store i64 0, ptr %claims
  %arrived = getelementptr %team, ptr %team, i32 0, i32 8
  store i64 0, ptr %arrived
  %behind = getelementptr %team, ptr %team, i32 0, i32 10
  store i64 0, ptr %behind
  store i64 0, ptr %error
  %value_place = getelementptr i64, ptr %error, i64 1
  store i64 0, ptr %value_place
  %few = icmp slt i32 %wanted, 256
  %clamped = select i1 %few, i32 %wanted, i32 256
  %threads = sext i32 %clamped to i64
  %several = icmp sgt i64 %threads, 1
  br i1 %several, label %count, label %start
count:
  %s = phi i64 [ %first, %entry ], [ %following, %counted ]
  %work = phi i64 [ 0, %entry ], [ %more_work, %counted ]
  %counting = icmp slt i64 %s, %last
  br i1 %counting, label %counted, label %weigh
counted:
  %work_place = getelementptr i64, ptr @graphc_work, i64 %s
  %step_work = load i64, ptr %work_place
  %more_work = add i64 %work, %step_work
  %following = add i64 %s, 1
  br label %count
weigh:
  %worth = icmp sge i64 %work, 800000
  br i1 %worth, label %gather, label %start
gather:
  %members = call ptr @graphc_members(ptr %own)
  %apart = icmp eq ptr %members, %own
  %lingering = select i1 %apart, i64 0, i64 1
  br label %create
create:
  %t = phi i64 [ 1, %gather ], [ %next, %made ]
  %member = getelementptr %member, ptr %members, i64 %t
  store ptr %team, ptr %member
  %number_place = getelementptr %member, ptr %member, i32 0, i32 1
  store i64 %t, ptr %number_place
  %lingers_place = getelementptr %member, ptr %member, i32 0, i32 4
  store i64 %lingering, ptr %lingers_place
  %claim_place = getelementptr %claim, ptr %claims, i64 %t
  store i64 0, ptr %claim_place
  %called = call i1 @graphc_call(ptr %member)
  br i1 %called, label %made, label %start
made:
  %next = add i64 %t, 1
  %all = icmp eq i64 %next, %threads
  br i1 %all, label %start, label %create
start:
  ; Where the system refuses a thread, the team is those that were made.
  %size = phi i64 [ 1, %entry ], [ 1, %weigh ], [ %t, %create ], [ %threads, %made ]
  %all_members = phi ptr [ null, %entry ], [ null, %weigh ], [ %members, %create ],
                         [ %members, %made ]
  store atomic i64 %size, ptr %size_place release, align 8
  %arena = load ptr, ptr %slots
  %beyond = getelementptr i8, ptr %arena, i64 639
  %address = ptrtoint ptr %beyond to i64
  %aligned = and i64 %address, -512
  %scratch = inttoptr i64 %aligned to ptr
  call void @graphc_walk(ptr %team, i64 0, ptr %scratch)
  %alone = icmp eq ptr %all_members, null
  br i1 %alone, label %end, label %leave
leave:
  %with_own = icmp eq ptr %all_members, %own
  br label %each
each:
  %j = phi i64 [ 1, %leave ], [ %following_j, %done_one ]
  %left = icmp slt i64 %j, %size
  br i1 %left, label %one, label %all_done
one:
  %leaving = getelementptr %member, ptr %all_members, i64 %j
  br i1 %with_own, label %join, label %await
join:
  call void @graphc_join(ptr %leaving)
  br label %done_one
await:
  call void @graphc_await(ptr %leaving)
  br label %done_one
done_one:
  %following_j = add i64 %j, 1
  br label %each
all_done:
  br i1 %with_own, label %end, label %give_back
give_back:
  store atomic i64 0, ptr @graphc_crew release, align 8
  br label %end
end:
  %code = load i64, ptr %error
  %short = trunc i64 %code to i32
  ret i32 %short
}

define internal void @graphc_step_0(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %scratch, ptr %claims) nounwind {
entry:
  %s0 = getelementptr ptr, ptr %slots, i64 1
  %b0 = load ptr, ptr %s0
  %p0 = getelementptr i8, ptr %b0, i64 0
  %s1 = getelementptr ptr, ptr %slots, i64 3
  %b1 = load ptr, ptr %s1
  %p1 = getelementptr i8, ptr %b1, i64 0
  %s2 = getelementptr ptr, ptr %slots, i64 4
  %b2 = load ptr, ptr %s2
  %p2 = getelementptr i8, ptr %b2, i64 0
  %s3 = getelementptr ptr, ptr %slots, i64 0
  %b3 = load ptr, ptr %s3
  %p3 = getelementptr i8, ptr %b3, i64 0
  %low = add i64 0, 0
  %high = add i64 1, 0
  %mine = icmp eq i64 %thread, 0
  br i1 %mine, label %run, label %done
run:
  call void @k0_mat_mul_add_bias_relu(ptr %p0, ptr %p1, ptr %p2, ptr %p3, i64 %low, i64 %high, ptr %error, ptr %scratch)
  br label %done
done:
  ret void
}
define internal void @graphc_step_1(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %scratch, ptr %claims) nounwind {
entry:
  %s0 = getelementptr ptr, ptr %slots, i64 0
  %b0 = load ptr, ptr %s0
  %p0 = getelementptr i8, ptr %b0, i64 0
  %s1 = getelementptr ptr, ptr %slots, i64 2
  %b1 = load ptr, ptr %s1
  %p1 = getelementptr i8, ptr %b1, i64 0
  %s2 = getelementptr ptr, ptr %slots, i64 0
  %b2 = load ptr, ptr %s2
  %p2 = getelementptr i8, ptr %b2, i64 64
  %found = alloca [2 x i64], align 8
  store i64 0, ptr %found
  %low = add i64 0, 0
  %high = add i64 2, 0
  %mine = icmp eq i64 %thread, 0
  br i1 %mine, label %run, label %done
run:
  call void @k1_softmax_log_loss(ptr %p0, ptr %p1, ptr %p2, i64 %low, i64 %high, ptr %found, ptr %scratch)
  %code = load i64, ptr %found
  %bad = icmp ne i64 %code, 0
  br i1 %bad, label %report, label %done
report:
  %value_place = getelementptr i64, ptr %found, i64 1
  %value = load i64, ptr %value_place
  %shown_place = getelementptr i64, ptr %error, i64 1
  store i64 %value, ptr %shown_place
  %number = add i64 %code, 0
  store i64 %number, ptr %error
  br label %done
done:
  ret void
}
define internal void @graphc_step_2(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %scratch, ptr %claims) nounwind {
entry:
  %s0 = getelementptr ptr, ptr %slots, i64 0
  %b0 = load ptr, ptr %s0
  %p0 = getelementptr i8, ptr %b0, i64 64
  %s1 = getelementptr ptr, ptr %slots, i64 5
  %b1 = load ptr, ptr %s1
  %p1 = getelementptr i8, ptr %b1, i64 0
  %low = add i64 0, 0
  %high = add i64 1, 0
  %mine = icmp eq i64 %thread, 0
  br i1 %mine, label %run, label %done
run:
  call void @k2_sum_times(ptr %p0, ptr %p1, i64 %low, i64 %high, ptr %error, ptr %scratch)
  br label %done
done:
  ret void
}
define internal void @graphc_step_3(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %scratch, ptr %claims) nounwind {
entry:
  %s0 = getelementptr ptr, ptr %slots, i64 5
  %b0 = load ptr, ptr %s0
  %p0 = getelementptr i8, ptr %b0, i64 0
  %s1 = getelementptr ptr, ptr %slots, i64 6
  %b1 = load ptr, ptr %s1
  %p1 = getelementptr i8, ptr %b1, i64 0
  %low = add i64 0, 0
  %high = add i64 1, 0
  %mine = icmp eq i64 %thread, 0
  br i1 %mine, label %run, label %done
run:
  call void @k3_copy(ptr %p0, ptr %p1, i64 %low, i64 %high, ptr %error, ptr %scratch)
  br label %done
done:
  ret void
}
define internal void @graphc_step_4(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %scratch, ptr %claims) nounwind {
entry:
  %s0 = getelementptr ptr, ptr %slots, i64 0
  %b0 = load ptr, ptr %s0
  %p0 = getelementptr i8, ptr %b0, i64 0
  %s1 = getelementptr ptr, ptr %slots, i64 2
  %b1 = load ptr, ptr %s1
  %p1 = getelementptr i8, ptr %b1, i64 0
  %s2 = getelementptr ptr, ptr %slots, i64 0
  %b2 = load ptr, ptr %s2
  %p2 = getelementptr i8, ptr %b2, i64 64
  %found = alloca [2 x i64], align 8
  store i64 0, ptr %found
  %low = add i64 0, 0
  %high = add i64 2, 0
  %mine = icmp eq i64 %thread, 0
  br i1 %mine, label %run, label %done
run:
  call void @k4_fill_softmax_log_loss_gradient(ptr %p0, ptr %p1, ptr %p2, i64 %low, i64 %high, ptr %found, ptr %scratch)
  %code = load i64, ptr %found
  %bad = icmp ne i64 %code, 0
  br i1 %bad, label %report, label %done
report:
  %value_place = getelementptr i64, ptr %found, i64 1
  %value = load i64, ptr %value_place
  %shown_place = getelementptr i64, ptr %error, i64 1
  store i64 %value, ptr %shown_place
  %number = add i64 %code, 1
  store i64 %number, ptr %error
  br label %done
done:
  ret void
}
define internal void @graphc_step_5(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %scratch, ptr %claims) nounwind {
entry:
  %s0 = getelementptr ptr, ptr %slots, i64 0
  %b0 = load ptr, ptr %s0
  %p0 = getelementptr i8, ptr %b0, i64 64
  %s1 = getelementptr ptr, ptr %slots, i64 0
  %b1 = load ptr, ptr %s1
  %p1 = getelementptr i8, ptr %b1, i64 0
  %s2 = getelementptr ptr, ptr %slots, i64 0
  %b2 = load ptr, ptr %s2
  %p2 = getelementptr i8, ptr %b2, i64 64
  %low = add i64 0, 0
  %high = add i64 8, 0
  %mine = icmp eq i64 %thread, 0
  br i1 %mine, label %run, label %done
run:
  call void @k5_map_gradient(ptr %p0, ptr %p1, ptr %p2, i64 %low, i64 %high, ptr %error, ptr %scratch)
  br label %done
done:
  ret void
}
define internal void @graphc_step_6(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %scratch, ptr %claims) nounwind {
entry:
  %s0 = getelementptr ptr, ptr %slots, i64 0
  %b0 = load ptr, ptr %s0
  %p0 = getelementptr i8, ptr %b0, i64 64
  %s1 = getelementptr ptr, ptr %slots, i64 9
  %b1 = load ptr, ptr %s1
  %p1 = getelementptr i8, ptr %b1, i64 0
  %low = add i64 0, 0
  %high = add i64 4, 0
  %mine = icmp eq i64 %thread, 0
  br i1 %mine, label %run, label %done
run:
  call void @k6_sum(ptr %p0, ptr %p1, i64 %low, i64 %high, ptr %error, ptr %scratch)
  br label %done
done:
  ret void
}
define internal void @graphc_step_7(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %scratch, ptr %claims) nounwind {
entry:
  %s0 = getelementptr ptr, ptr %slots, i64 0
  %b0 = load ptr, ptr %s0
  %p0 = getelementptr i8, ptr %b0, i64 64
  %s1 = getelementptr ptr, ptr %slots, i64 3
  %b1 = load ptr, ptr %s1
  %p1 = getelementptr i8, ptr %b1, i64 0
  %s2 = getelementptr ptr, ptr %slots, i64 7
  %b2 = load ptr, ptr %s2
  %p2 = getelementptr i8, ptr %b2, i64 0
  %low = add i64 0, 0
  %high = add i64 1, 0
  %mine = icmp eq i64 %thread, 0
  br i1 %mine, label %run, label %done
run:
  call void @k7_mat_mul(ptr %p0, ptr %p1, ptr %p2, i64 %low, i64 %high, ptr %error, ptr %scratch)
  br label %done
done:
  ret void
}
define internal void @graphc_step_8(ptr %slots, i64 %thread, i64 %threads, ptr %error, ptr %scratch, ptr %claims) nounwind {
entry:
  %s0 = getelementptr ptr, ptr %slots, i64 0
  %b0 = load ptr, ptr %s0
  %p0 = getelementptr i8, ptr %b0, i64 64
  %s1 = getelementptr ptr, ptr %slots, i64 1
  %b1 = load ptr, ptr %s1
  %p1 = getelementptr i8, ptr %b1, i64 0
  %s2 = getelementptr ptr, ptr %slots, i64 8
  %b2 = load ptr, ptr %s2
  %p2 = getelementptr i8, ptr %b2, i64 0
  %low = add i64 0, 0
  %high = add i64 1, 0
  %mine = icmp eq i64 %thread, 0
  br i1 %mine, label %run, label %done
run:
  call void @k8_mat_mul(ptr %p0, ptr %p1, ptr %p2, i64 %low, i64 %high, ptr %error, ptr %scratch)
  br label %done
done:
  ret void
}
@graphc_steps = internal constant [9 x ptr] [ptr @graphc_step_0, ptr @graphc_step_1, ptr @graphc_step_2, ptr @graphc_step_3, ptr @graphc_step_4, ptr @graphc_step_5, ptr @graphc_step_6, ptr @graphc_step_7, ptr @graphc_step_8]
@graphc_waits = internal constant [9 x i8] [i8 0, i8 0, i8 0, i8 0, i8 1, i8 0, i8 0, i8 0, i8 0]
@graphc_work = internal constant [9 x i64] [i64 0, i64 0, i64 0, i64 0, i64 0, i64 0, i64 0, i64 0, i64 0]

define i32 @graphc_forward(ptr %slots, i32 %threads, ptr %error) nounwind {
  %code = call i32 @graphc_run(ptr %slots, i64 0, i64 4, i32 %threads, ptr %error,
    ptr null)
  ret i32 %code
}

define i32 @graphc_backward(ptr %slots, i32 %threads, ptr %error) nounwind {
  %code = call i32 @graphc_run(ptr %slots, i64 4, i64 9, i32 %threads, ptr %error,
    ptr null)
  ret i32 %code
}

define i32 @graphc_both(ptr %slots, i32 %threads, ptr %error) nounwind {
  %code = call i32 @graphc_run(ptr %slots, i64 0, i64 9, i32 %threads, ptr %error,
    ptr null)
  ret i32 %code
}

define i32 @graphc_step(ptr %slots, i32 %step, i32 %threads, ptr %error) nounwind {
  %first = sext i32 %step to i64
  %last = add i64 %first, 1
  %code = call i32 @graphc_run(ptr %slots, i64 %first, i64 %last, i32 %threads, ptr %error,
    ptr null)
  ret i32 %code
}

define i32 @graphc_timed(ptr %slots, i32 %first, i32 %last, i32 %threads, ptr %error, ptr %timer)
  nounwind {
  %from = sext i32 %first to i64
  %to = sext i32 %last to i64
  %code = call i32 @graphc_run(ptr %slots, i64 %from, i64 %to, i32 %threads, ptr %error, ptr %timer)
  ret i32 %code
}
